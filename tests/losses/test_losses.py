"""Properties of every loss: pinned values of the original code, invariances, extreme logits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from tests.support.logits import CLASSES, SAMPLES, close, kl_of_kept_classes, random_logits, random_mask
from tests.support.programs import GOLDEN

CASES = json.loads((GOLDEN / "losses_a.json").read_text())


def value_and_gradient(loss, student, teacher, labels):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, labels)
    return value.detach(), torch.autograd.grad(value, student)[0]


def masked_dkd(s, t, y):
    target, non_target = L.tckd_nckd(s, t, y, temperature=4.0, keep=L.top_k_mask(t, y, 4))
    return (target + 8 * non_target).mean()


def partition_sum(s, t, y):
    binary, inside, outside = L.partition_kl(s, t, random_mask(samples=len(s), classes=s.shape[1]), 2.0, "both")
    return (binary + 2 * inside + 3 * outside).mean()


def prkd(variant, **options):
    def loss(s, t, y):
        return L.prkd_loss(s, t, fraction=0.4, temperature=4.0, final_temperature=1.0, variant=variant, **options)

    return loss


def gdkd(kl_type):
    return lambda s, t, y: L.gdkd_loss(s, t, w0=1.0, w1=2.0, w2=8.0, topk=5, temperature=4.0, kl_type=kl_type)


# Every loss as a function of (student, teacher, labels).
LOSSES = {
    "kd": lambda s, t, y: L.kd_loss(s, t, temperature=4.0),
    "kd-T1": lambda s, t, y: L.kd_loss(s, t, temperature=1.0),
    "kd-standardized": lambda s, t, y: L.kd_loss(L.standardize(s), L.standardize(t), temperature=2.0),
    "dkd": lambda s, t, y: L.dkd_loss(s, t, y, alpha=1.0, beta=8.0, temperature=4.0),
    "dkd-T1": lambda s, t, y: L.dkd_loss(s, t, y, alpha=1.0, beta=8.0, temperature=1.0),
    "dkd-masked": masked_dkd,
    "partition": partition_sum,
    "gdkd-forward": gdkd("forward"),
    "gdkd-reverse": gdkd("reverse"),
    "gdkd-both": gdkd("both"),
    "gdkd3": lambda s, t, y: L.gdkd3_loss(s, t, w0=1.0, w1=2.0, w2=8.0, topk=4, temperature=4.0),
    "dist": lambda s, t, y: L.dist_loss(s, t, beta=2.0, gamma=2.0, temperature=4.0),
    "dist-T1": lambda s, t, y: L.dist_loss(s, t, beta=2.0, gamma=2.0, temperature=1.0),
    "prkd_a": prkd("prkd_a"),
    "prkd_b": prkd("prkd_b"),
    "prkd": prkd("prkd"),
    "prkd-inter+intra": prkd("prkd", correlation="inter+intra", t_squared=False),
}
UNORDERED = {name: loss for name, loss in LOSSES.items() if name != "partition"}  # whose mask is tied to the order
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


# ---- values of the original code ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden_arrays():
    with np.load(GOLDEN / "losses_a.npz") as arrays:
        return dict(arrays)


def golden_id(case):
    hyper = "-".join(f"{name}={value}" for name, value in case["hyperparameters"].items())
    return f"{case['method']}-N{case['N']}xC{case['C']}-{hyper}"


def golden_losses(method, student, teacher, labels, hyper):
    if method.endswith("_logit_standardised"):
        method = method.removesuffix("_logit_standardised")
        student, teacher = L.standardize(student), L.standardize(teacher)
    if method == "dkd_parts":
        tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=hyper["temperature"])
        return {"tckd": hyper["alpha"] * tckd.mean(), "nckd": hyper["beta"] * nckd.mean()}
    if method == "dkd":
        return {"loss": L.dkd_loss(student, teacher, labels, **hyper)}
    return {"loss": getattr(L, f"{method}_loss")(student, teacher, **hyper)}


def test_there_are_sixty_golden_cases_over_all_methods():
    assert len(CASES) == 60
    methods = {case["method"].removesuffix("_logit_standardised") for case in CASES}
    assert methods == {"kd", "dkd", "dkd_parts", "gdkd", "gdkd3", "dist"}


@pytest.mark.parametrize("case", CASES, ids=golden_id)
def test_values_and_gradients_equal_the_original_code(case, golden_arrays):
    number = case["case"]
    student = torch.tensor(golden_arrays[f"{number}/student"], requires_grad=True)
    teacher, labels = torch.tensor(golden_arrays[f"{number}/teacher"]), torch.tensor(golden_arrays[f"{number}/target"])
    losses = golden_losses(case["method"], student, teacher, labels, case["hyperparameters"])
    assert losses.keys() == case["values"].keys()
    for name, value in losses.items():
        assert value.item() == pytest.approx(case["values"][name], rel=1e-9, abs=0)
        gradient = torch.autograd.grad(value, student, retain_graph=True)[0]
        expected = torch.tensor(golden_arrays[f"{number}/grad_{name}"])
        assert (gradient - expected).abs().max() <= 1e-8 * expected.abs().max()


# ---- any loss -----------------------------------------------------------------------------------------------------


@every_loss
def test_gradients_equal_finite_differences(loss):
    student, teacher, labels = random_logits(samples=5, classes=7, scale=2.0)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels), student.requires_grad_())


@every_loss
def test_adding_a_constant_to_a_row_of_logits_changes_nothing(loss):
    student, teacher, labels = random_logits()
    shift = torch.linspace(-50, 50, SAMPLES, dtype=torch.float64)[:, None]
    value, gradient = value_and_gradient(loss, student, teacher, labels)
    shifted_value, shifted_gradient = value_and_gradient(loss, student + shift, teacher - 2 * shift, labels)
    close(shifted_value, value, 1e-10)
    close(shifted_gradient, gradient, 1e-10)


@pytest.mark.parametrize("loss", UNORDERED.values(), ids=UNORDERED.keys())
def test_the_order_of_samples_and_of_classes_is_immaterial(loss):
    student, teacher, labels = random_logits()
    samples = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))
    classes = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(1))
    expected = loss(student, teacher, labels)
    close(loss(student[samples], teacher[samples], labels[samples]), expected, 1e-10)
    close(loss(student[:, classes], teacher[:, classes], classes.argsort()[labels]), expected, 1e-10)


@every_loss
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(loss):
    _, teacher, labels = random_logits()
    value, gradient = value_and_gradient(loss, teacher, teacher, labels)
    other, _ = value_and_gradient(loss, *random_logits())
    assert abs(value) < 1e-4 < other  # not 0: columns of rarely predicted classes feel DIST's 1e-8
    assert gradient.abs().max() < 1e-4


@every_loss
def test_float32_agrees_with_float64(loss):
    student, teacher, labels = random_logits(samples=32, classes=100, scale=5.0)
    value, gradient = value_and_gradient(loss, student, teacher, labels)
    value32, gradient32 = value_and_gradient(loss, student.float(), teacher.float(), labels)
    assert gradient32.dtype == torch.float32
    assert value32.item() == pytest.approx(value.item(), rel=1e-4)
    assert (gradient32.double() - gradient).abs().max() <= 1e-4 * gradient.abs().max()


def saturated(classes, scale):
    """Logits of ``scale`` at one class of each row, 0 elsewhere."""
    return scale * F.one_hot(classes, CLASSES).float()


def extreme_logits(name):
    labels = torch.arange(SAMPLES)
    student, teacher, _ = random_logits(dtype=torch.float32, scale=1e4)
    return {
        "random of 1e4": (student, teacher, labels),
        "both saturated on the target": (saturated(labels, 1e3), saturated(labels, 1e3), labels),
        "both saturated on the target at 1e4": (saturated(labels, 1e4), saturated(labels, 2e4), labels),
        "student saturated on a wrong class": (saturated(labels + 1, 1e3), saturated(labels, 1e3), labels),
        "both saturated on a wrong class": (saturated(labels + 1, 1e4), saturated(labels + 1, 1e4), labels),
        "student saturated, teacher flat": (saturated(labels, 1e4), torch.zeros(SAMPLES, CLASSES), labels),
        "student flat, teacher saturated": (torch.zeros(SAMPLES, CLASSES), saturated(labels, 1e4), labels),
        "both flat": (torch.zeros(SAMPLES, CLASSES), torch.zeros(SAMPLES, CLASSES), labels),
        "target ruled out by both": (saturated(labels, -1e4), saturated(labels, -1e4), labels),
    }[name]


EXTREMES = (
    "random of 1e4",
    "both saturated on the target",
    "both saturated on the target at 1e4",
    "student saturated on a wrong class",
    "both saturated on a wrong class",
    "student saturated, teacher flat",
    "student flat, teacher saturated",
    "both flat",
    "target ruled out by both",
)


@pytest.mark.parametrize("extreme", EXTREMES)
@every_loss
def test_values_and_gradients_stay_finite_in_float32(loss, extreme):
    value, gradient = value_and_gradient(loss, *extreme_logits(extreme))
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_sure_of_a_wrong_class_pays_the_gap_of_its_logits(temperature):
    student, teacher, labels = extreme_logits("student saturated on a wrong class")
    kd = L.kd_loss(student, teacher, temperature=temperature)
    tckd, _ = L.tckd_nckd(student, teacher, labels, temperature=temperature)
    assert kd.item() == pytest.approx(1e3 * temperature, rel=1e-5)
    assert tckd.mean().item() == pytest.approx(1e3 * temperature, rel=1e-5)


def test_the_masked_classes_play_no_part_however_large_their_logits():
    student, teacher, labels = random_logits(scale=1e4)
    keep = L.top_k_mask(teacher, labels, 4)
    nckd = L.tckd_nckd(student, teacher, labels, temperature=4.0, keep=keep)[1]
    close(nckd, kl_of_kept_classes(student, teacher, keep, 4.0))
    inside, outside = L.partition_kl(student, teacher, keep, 4.0)[1:]
    close(inside, kl_of_kept_classes(student, teacher, keep, 4.0))
    close(outside, kl_of_kept_classes(student, teacher, ~keep, 4.0))


def test_student_and_teacher_sure_of_the_target_agree_where_upstream_gives_nan():
    student, teacher, labels = extreme_logits("both saturated on the target")
    tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=1.0)
    assert (tckd == 0).all()
    assert nckd.abs().max() < 1e-6
    probabilities = student.softmax(1)
    assert (probabilities * probabilities.log()).sum().isnan()  # what working with log(softmax(z)) comes to
