"""The distillers' contract, over every registered one, and each method's formula."""

from __future__ import annotations

import inspect
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller_ext import losses as L
from mdistiller_ext.distillers import Distiller, Output, Progress, Weight, create_distiller, register_distiller
from mdistiller_ext.distillers.base import ROLES
from mdistiller_ext.distillers.deepkd import dynamic_k
from mdistiller_ext.distillers.kd import KD
from mdistiller_ext.errors import ConfigError, UnknownNameError
from mdistiller_ext.registry import DISTILLERS

CLASSES = 10
IMAGE_SHAPE = (3, 2, 2)
COMPONENTS = {
    "NONE": ["task/ce"],
    "KD": ["task/ce", "target/tckd", "nontarget/nckd"],
    "DKD": ["task/ce", "target/tckd", "nontarget/nckd"],
    "DEEPKD": ["task/ce", "target/tckd", "nontarget/nckd"],
    "GDKD": ["task/ce", "target/high", "nontarget/top", "nontarget/rest"],
    "GDKD3": ["task/ce", "target/high", "nontarget/top", "nontarget/rest"],
    "DIST": ["task/ce", "kd/inter", "kd/intra"],
    "PRKD": ["task/ce", "kd/kl", "kd/correlation"],
}

every_distiller = pytest.mark.parametrize("name", list(DISTILLERS))
every_taught_distiller = pytest.mark.parametrize("name", [n for n in DISTILLERS if DISTILLERS.get(n).needs_teacher])


class TinyModel(nn.Module):
    """A linear classifier behind a batch norm, with the zoo's outputs."""

    def __init__(self, classes=CLASSES, seed=0):
        super().__init__()
        features = 3 * 2 * 2
        self.norm = nn.BatchNorm1d(features)
        self.fc = nn.Linear(features, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.fc.weight.copy_(2 * torch.randn(self.fc.weight.shape, generator=generator))
        self.double()

    def forward(self, images):
        return self.fc(self.norm(images.flatten(1))), {}


def make_distiller(name, **hyper_parameters):
    return create_distiller(name, TinyModel(seed=1), TinyModel(seed=2), **hyper_parameters)


def make_batch(samples=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = 2 * torch.randn(samples, *IMAGE_SHAPE, generator=generator, dtype=torch.float64) + 1
    return images, torch.randint(CLASSES, (samples,), generator=generator)


def make_logits(samples=16, classes=CLASSES, seed=0):
    """(student, teacher, labels) for what needs no modules."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (samples,), generator=generator)


def losses_of(name, student, teacher, labels, *, epoch=20, epochs=240, **hyper_parameters):
    distiller = make_distiller(name, **hyper_parameters)
    return distiller.losses(Output(student, {}), Output(teacher, {}), labels, Progress(epoch, epochs))


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(actual, expected, tolerance=1e-11):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# ---- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_are_those_of_the_design(name):
    distiller = make_distiller(name)
    _, losses = distiller(*make_batch(), Progress(1, 240))
    assert list(losses) == COMPONENTS[name]
    assert distiller.component_names(IMAGE_SHAPE) == COMPONENTS[name]


@every_distiller
def test_components_are_finite_scalars_with_a_role(name):
    _, losses = make_distiller(name)(*make_batch(), Progress(1, 240))
    for key, value in losses.items():
        role, component = key.split("/")
        assert role in ROLES
        assert component
        assert value.shape == ()
        assert value.isfinite()


@every_distiller
def test_every_method_trains_its_student(name):
    distiller = make_distiller(name)
    output, losses = distiller(*make_batch(), Progress(20, 240))
    sum(losses.values()).backward()
    assert output.logits.shape == (16, CLASSES)
    for p in distiller.student.parameters():
        assert p.grad.isfinite().all()
        assert p.grad.abs().max() > 0


@every_distiller
def test_every_component_alone_has_a_gradient(name):
    student, teacher, labels = make_logits()
    student.requires_grad_()
    # In the middle of training, when nothing has faded out or is not there yet.
    for value in losses_of(name, student, teacher, labels, epoch=120).values():
        assert torch.autograd.grad(value, student, retain_graph=True)[0].abs().max() > 1e-6


@every_distiller
def test_the_students_logits_are_returned_as_the_student_gives_them(name):
    distiller = make_distiller(name).eval()
    images, labels = make_batch()
    output, _ = distiller(images, labels, Progress(1, 240))
    assert torch.equal(output.logits, distiller.student(images)[0])


@every_distiller
def test_the_teacher_is_frozen_and_stays_in_eval_mode(name):
    distiller = make_distiller(name)
    before = state_of(distiller.teacher)
    student_before = state_of(distiller.student)
    for _ in range(2):
        distiller.train()
        assert distiller.student.norm.training
        assert not any(module.training for module in distiller.teacher.modules())
        _, losses = distiller(*make_batch(), Progress(5, 240))
        sum(losses.values()).backward()
    assert all(not p.requires_grad and p.grad is None for p in distiller.teacher.parameters())
    assert same_state(state_of(distiller.teacher), before)
    assert not torch.equal(distiller.student.norm.running_mean, student_before["norm.running_mean"])


@every_distiller
def test_a_teacher_handed_over_in_training_mode_is_switched_to_eval(name):
    teacher = TinyModel(seed=2).train()
    create_distiller(name, TinyModel(seed=1), teacher)
    assert not teacher.training
    assert not teacher.norm.training


@every_distiller
def test_only_the_students_parameters_are_learnable_and_nothing_is_the_methods_own(name):
    distiller = make_distiller(name)
    assert [id(p) for p in distiller.learnable_parameters()] == [id(p) for p in distiller.student.parameters()]
    assert distiller.own_state_dict() == {}


@every_distiller
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_asking_for_the_component_names_leaves_mode_and_weights_and_statistics(name, training):
    distiller = make_distiller(name).train(training)
    before = state_of(distiller)
    distiller.component_names(IMAGE_SHAPE)
    assert distiller.training == distiller.student.training == distiller.student.norm.training == training
    assert not distiller.teacher.training
    assert same_state(state_of(distiller), before)
    assert all(p.grad is None for p in distiller.parameters())


@every_distiller
def test_a_last_batch_of_one_sample_gives_finite_losses_and_gradients(name):
    student, teacher, labels = make_logits(samples=1)
    total = sum(losses_of(name, student.requires_grad_(), teacher, labels).values())
    assert total.isfinite()
    assert torch.autograd.grad(total, student)[0].isfinite().all()


@every_distiller
def test_hyper_parameters_are_keyword_only_with_defaults(name):
    parameters = list(inspect.signature(DISTILLERS.get(name)).parameters.values())
    assert [p.name for p in parameters[:2]] == ["student", "teacher"]
    for p in parameters[2:]:
        assert p.kind is inspect.Parameter.KEYWORD_ONLY
        assert p.default is not inspect.Parameter.empty


@every_distiller
def test_an_unknown_hyper_parameter_is_a_type_error(name):
    with pytest.raises(TypeError, match="bogus"):
        make_distiller(name, bogus=1.0)


@every_distiller
def test_a_negative_weight_is_refused_by_the_name_of_its_setting(name):
    """Every number of a method is a weight, unless it is a temperature or a fraction."""
    distiller = DISTILLERS.get(name)
    numbers = [key for key, p in inspect.signature(distiller.__init__).parameters.items() if isinstance(p.default, float)]
    for key in set(numbers) - {"t", "temperature", "final_t", "k_initial"}:
        setting = distiller.config_keys.get(key, key.upper())
        with pytest.raises(ConfigError, match=rf"^{name}\.{setting} must not be negative, not -0\.5$"):
            make_distiller(name, **{key: -0.5})
        make_distiller(name, **{key: 0.0})


@pytest.mark.usefixtures("forget_plugins")
def test_a_plug_in_declares_its_weights_or_not():
    class Plain(Distiller):
        def __init__(self, student, teacher, *, mse_weight=0.1, shift=0.0):
            super().__init__(student, teacher)

    class Declared(Plain):
        config_keys: ClassVar[dict[str, str]] = {"mse_weight": "LOSS.MSE_WEIGHT"}

        def __init__(self, student, teacher, *, mse_weight: Weight = 0.1, shift: float = 0.0):
            super().__init__(student, teacher)

    class Unresolved(Plain):
        def __init__(self, student: NotImported, teacher, *, mse_weight: Weight = 0.1):  # noqa: F821
            super().__init__(student, teacher)

    for distiller in (Plain, Declared, Unresolved):
        register_distiller(distiller.__name__)(distiller)
    with pytest.raises(ConfigError, match=r"^Declared\.LOSS\.MSE_WEIGHT must not be negative, not -1$"):
        make_distiller("Declared", mse_weight=-1)
    make_distiller("Declared", shift=-1.0)
    for name in ("Plain", "Unresolved"):
        make_distiller(name, mse_weight=-1)


@every_taught_distiller
def test_a_missing_teacher_is_reported(name):
    with pytest.raises(ConfigError, match="needs a teacher"):
        create_distiller(name, TinyModel(), None)


def test_the_baseline_works_without_a_teacher():
    distiller = create_distiller("NONE", TinyModel(), None).train()
    images, labels = make_batch()
    output, losses = distiller(images, labels, Progress(1, 240))
    assert losses["task/ce"].item() == pytest.approx(F.cross_entropy(output.logits, labels).item())
    assert distiller.component_names(IMAGE_SHAPE) == ["task/ce"]


def test_an_unknown_distiller_is_reported_with_the_nearest_name():
    with pytest.raises(UnknownNameError) as raised:
        create_distiller("DKDD", TinyModel(), TinyModel())
    message = str(raised.value)
    assert message.startswith("unknown distiller 'DKDD'; did you mean 'DKD'? Known: ")
    assert message.split("Known: ")[1].split("; ")[0].split(", ") == sorted(DISTILLERS)
    assert set(COMPONENTS) <= set(DISTILLERS)


# ---- formulas -----------------------------------------------------------------------------------------------------


def sum_of(name, **options):
    student, teacher, labels = make_logits()
    return sum(losses_of(name, student, teacher, labels, **options).values())


def cross_entropy():
    student, _, labels = make_logits()
    return F.cross_entropy(student, labels)


def test_none_is_cross_entropy():
    close(sum_of("NONE"), cross_entropy())


def test_kd_is_weighted_cross_entropy_and_kl():
    student, teacher, _ = make_logits()
    kd = L.kd_loss(student, teacher, temperature=4.0)
    close(sum_of("KD"), 0.1 * cross_entropy() + 0.9 * kd)
    other = 0.5 * cross_entropy() + 2.0 * L.kd_loss(student, teacher, temperature=1.0)
    close(sum_of("KD", temperature=1.0, ce_weight=0.5, kd_weight=2.0), other)


def test_kd_by_the_official_rule_has_weight_one_and_multiplies_batch_means():
    """What DeepKD's release computes with its trainer."""
    student, teacher, labels = make_logits()
    losses = losses_of("KD", student, teacher, labels, kd_weight=0.9, rule="official")
    tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=4.0)
    mass = L.non_target_mass(teacher, labels, temperature=4.0)
    close(losses["task/ce"], 0.1 * cross_entropy())
    close(losses["target/tckd"], tckd.mean())
    close(losses["nontarget/nckd"], mass.mean() * nckd.mean())


@pytest.mark.parametrize(("epoch", "weight"), [(1, 0.05), (10, 0.5), (20, 1.0), (30, 1.0), (240, 1.0)])
def test_dkd_warms_up_linearly_over_twenty_epochs(epoch, weight):
    student, teacher, labels = make_logits()
    dkd = L.dkd_loss(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0)
    close(sum_of("DKD", epoch=epoch), cross_entropy() + weight * dkd)


def test_dkd_weighs_each_component():
    student, teacher, labels = make_logits()
    tckd, nckd = (part.mean() for part in L.tckd_nckd(student, teacher, labels, temperature=2.0))
    losses = losses_of("DKD", student, teacher, labels, epoch=5, ce_weight=3.0, alpha=0.5, beta=2.0, t=2.0, warmup=10)
    close(losses["task/ce"], 3.0 * cross_entropy())
    close(losses["target/tckd"], 0.5 * 0.5 * tckd)
    close(losses["nontarget/nckd"], 0.5 * 2.0 * nckd)


@pytest.mark.parametrize("name", ["DKD", "GDKD", "GDKD3", "DEEPKD"])
def test_no_warm_up_epochs_mean_full_weight_at_once(name):
    close(sum_of(name, epoch=1, warmup=0), sum_of(name, epoch=1, warmup=1))
    assert sum_of(name, epoch=1, warmup=0) > sum_of(name, epoch=1, warmup=2) + 0.1


@pytest.mark.parametrize(("epoch", "weight"), [(1, 0.05), (10, 0.5), (30, 1.0)])
@pytest.mark.parametrize("kl_type", ["forward", "reverse", "both"])
def test_gdkd_is_its_weighted_loss(kl_type, epoch, weight):
    student, teacher, _ = make_logits()
    gdkd = L.gdkd_loss(student, teacher, w0=0.5, w1=2.0, w2=6.0, topk=3, temperature=2.0, kl_type=kl_type)
    total = sum_of("GDKD", epoch=epoch, ce_weight=0.7, w0=0.5, w1=2.0, w2=6.0, topk=3, t=2.0, kl_type=kl_type)
    close(total, 0.7 * cross_entropy() + weight * gdkd)


def test_gdkd_and_gdkd3_have_the_releases_defaults():
    student, teacher, _ = make_logits()
    weights = {"w0": 1.0, "w1": 1.0, "w2": 8.0, "temperature": 4.0}
    close(sum_of("GDKD"), cross_entropy() + L.gdkd_loss(student, teacher, topk=5, **weights))
    close(sum_of("GDKD3"), cross_entropy() + L.gdkd3_loss(student, teacher, topk=4, **weights))


@pytest.mark.parametrize(("epoch", "weight"), [(1, 0.05), (10, 0.5), (30, 1.0)])
def test_gdkd3_is_its_weighted_loss(epoch, weight):
    student, teacher, _ = make_logits()
    gdkd3 = L.gdkd3_loss(student, teacher, w0=0.5, w1=2.0, w2=6.0, topk=3, temperature=2.0)
    total = sum_of("GDKD3", epoch=epoch, ce_weight=0.7, w0=0.5, w1=2.0, w2=6.0, topk=3, t=2.0)
    close(total, 0.7 * cross_entropy() + weight * gdkd3)


def test_each_gdkd_component_has_its_own_weight():
    student, teacher, labels = make_logits()
    high, top, rest = L.gdkd_parts(student, teacher, topk=5, temperature=4.0)
    losses = losses_of("GDKD", student, teacher, labels, w0=2.0, w1=3.0, w2=5.0)
    close(losses["target/high"], 2 * high)
    close(losses["nontarget/top"], 3 * top)
    close(losses["nontarget/rest"], 5 * rest)


def test_dist_is_its_weighted_loss():
    student, teacher, labels = make_logits()
    close(sum_of("DIST"), cross_entropy() + L.dist_loss(student, teacher, beta=2.0, gamma=2.0, temperature=4.0))
    losses = losses_of("DIST", student, teacher, labels, ce_weight=0.5, beta=3.0, gamma=0.25, t=1.0)
    inter, intra = L.dist_parts(student, teacher, temperature=1.0)
    close(losses["task/ce"], 0.5 * cross_entropy())
    close(losses["kd/inter"], 3 * inter)
    close(losses["kd/intra"], 0.25 * intra)


@pytest.mark.parametrize("parts", [2, 3])
def test_dist_in_parts_is_the_mean_over_parts_of_the_batch(parts):
    """What processes compute that each relate their own samples; more parts than samples are as many as there are."""
    student, teacher, labels = make_logits()
    pairs = zip(student.tensor_split(parts), teacher.tensor_split(parts), strict=True)
    apart = [L.dist_loss(s, t, beta=2.0, gamma=2.0, temperature=4.0) for s, t in pairs]
    close(sum_of("DIST", parts=parts), cross_entropy() + sum(apart) / parts)
    close(sum_of("DIST", parts=10_000), sum_of("DIST", parts=len(labels)))


@pytest.mark.parametrize("variant", ["prkd_a", "prkd_b", "prkd"])
@pytest.mark.parametrize("epoch", [1, 60, 240])
def test_prkd_is_its_weighted_loss_at_the_fraction_of_training_done(epoch, variant):
    student, teacher, _ = make_logits()
    prkd = L.prkd_loss(student, teacher, fraction=epoch / 240, temperature=4.0, final_temperature=2.0, variant=variant)
    close(
        sum_of("PRKD", epoch=epoch, variant=variant, final_t=2.0, ce_weight=0.5, kd_weight=3.0),
        0.5 * cross_entropy() + 3 * prkd,
    )


def test_prkd_counting_epochs_from_zero_starts_as_kd_and_does_not_reach_the_end():
    student, teacher, _ = make_logits()
    kd = L.kd_loss(student, teacher, temperature=4.0)
    close(sum_of("PRKD", epoch=1, first_epoch=0), cross_entropy() + kd)
    close(sum_of("PRKD", epoch=240, first_epoch=0), sum_of("PRKD", epoch=239, first_epoch=1))


def test_prkd_passes_its_options_on():
    student, teacher, _ = make_logits()
    options = {"correlation": "inter+intra", "t_squared": False}
    prkd = L.prkd_loss(student, teacher, fraction=0.5, temperature=4.0, final_temperature=1.0, **options)
    close(sum_of("PRKD", epoch=120, **options), cross_entropy() + prkd)
    assert make_distiller("PRKD").average_last == 10
    assert make_distiller("PRKD", average_last=3).average_last == 3


@pytest.mark.parametrize("epoch", [1, 10, 20, 30])
def test_deepkd_without_a_mask_is_dkd(epoch):
    ours, theirs = (losses_of(name, *make_logits(), epoch=epoch, **h) for name, h in (("DEEPKD", {"dtm": False}), ("DKD", {})))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        close(ours[key], value)


def test_deepkd_weighted_as_kd_without_a_mask_is_kd():
    student, teacher, labels = make_logits()
    ours = losses_of("DEEPKD", student, teacher, labels, epoch=1, weighting="kd", dtm=False, ce_weight=0.1, kd_weight=0.9)
    for key, value in losses_of("KD", student, teacher, labels).items():
        close(ours[key], value)
    kd = L.kd_loss(student, teacher, temperature=4.0)
    close(sum_of("DEEPKD", epoch=1, weighting="kd", dtm=False), cross_entropy() + kd)  # no warm-up in this form


@pytest.mark.parametrize("weighting", ["dkd", "kd"])
def test_deepkd_keeps_only_the_teachers_highest_non_target_classes(weighting):
    student, teacher, labels = make_logits()
    losses = losses_of("DEEPKD", student, teacher, labels, epoch=1, weighting=weighting, warmup=0, k_initial=0.3)
    plain = losses_of("DEEPKD", student, teacher, labels, epoch=1, weighting=weighting, warmup=0, dtm=False)
    rows = []
    for s, t, label in zip(student / 4, teacher / 4, labels.tolist(), strict=True):
        kept = sorted((c for c in range(CLASSES) if c != label), key=lambda c: -t[c].item())[:3]
        kl = F.kl_div(s[kept].log_softmax(0), t[kept].log_softmax(0), reduction="sum", log_target=True)
        rows.append(16 * kl * (8 if weighting == "dkd" else 1 - t.softmax(0)[label]))
    close(losses["nontarget/nckd"], torch.stack(rows).mean())
    close(losses["target/tckd"], plain["target/tckd"])
    close(losses["task/ce"], plain["task/ce"])


def test_deepkd_keeps_every_class_in_the_last_epoch():
    close(sum_of("DEEPKD", epoch=240, k_static=3), sum_of("DEEPKD", epoch=240, dtm=False))
    assert (sum_of("DEEPKD", epoch=180, k_static=3) - sum_of("DEEPKD", epoch=180, dtm=False)).abs() > 0.1


STANDARDIZING = [n for n in DISTILLERS if "standardize" in inspect.signature(DISTILLERS.get(n)).parameters]


@pytest.mark.parametrize("name", STANDARDIZING)
def test_standardisation_acts_on_both_sides_of_the_distillation_and_not_on_cross_entropy(name):
    student, teacher, labels = make_logits()
    plain = losses_of(name, student, teacher, labels)
    scores = [(z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=1) for z in (student, teacher)]
    standardized = losses_of(name, student, teacher, labels, standardize=True)
    for key, expected in losses_of(name, *scores, labels).items():
        if key == "task/ce":
            close(standardized[key], plain[key])
        else:
            close(standardized[key], expected, 1e-6)
            assert (standardized[key] - plain[key]).abs() > 1e-3


def test_logit_standardisation_is_offered_for_the_kl_methods():
    assert {"KD", "DKD", "GDKD", "GDKD3", "DEEPKD"} <= set(STANDARDIZING)


# ---- progress and the dynamic K -----------------------------------------------------------------------------------


def test_progress_counts_from_one_and_keeps_its_tensor():
    progress = Progress(1, 240)
    epoch = progress.epoch
    assert progress.fraction.item() == 1 / 240
    progress.set_epoch(60)
    assert progress.epoch is epoch
    assert progress.fraction.item() == 0.25


K_OF_FIRST_EPOCH = {3: 1, 10: 2, 100: 5, 1000: 50}  # never one class alone, but where k_static is 1
every_class_count = pytest.mark.parametrize("classes", K_OF_FIRST_EPOCH)


def k_at(epoch, classes, *, epochs=240, initial=0.05, static=50, phase_ends=(60, 180)):
    return dynamic_k(Progress(epoch, epochs), classes, initial=initial, static=static, phase_ends=phase_ends).item()


@every_class_count
def test_k_begins_with_five_percent_holds_k_static_and_ends_with_every_class(classes):
    static = max(1, classes // 2)
    assert k_at(1, classes, static=static) == K_OF_FIRST_EPOCH[classes]
    for epoch in (60, 61, 120, 180):
        assert k_at(epoch, classes, static=static) == static
    assert k_at(240, classes, static=static) == classes - 1


@every_class_count
@pytest.mark.parametrize("static", [1, 50, 5000])
def test_k_stays_between_one_and_all_non_target_classes(classes, static):
    for epoch in range(1, 241):
        assert 1 <= k_at(epoch, classes, static=static) <= classes - 1


@every_class_count
def test_k_is_a_whole_number_that_never_falls(classes):
    ks = [k_at(epoch, classes, static=max(1, classes // 2)) for epoch in range(1, 241)]
    assert all(k == int(k) for k in ks)
    assert ks == sorted(ks)


def test_k_grows_linearly_in_the_easy_and_in_the_hard_phase():
    schedule = {"classes": 1001, "epochs": 31, "initial": 0.05, "static": 550, "phase_ends": (11, 21)}
    assert [k_at(epoch, **schedule) for epoch in (1, 3, 6, 11)] == [50, 150, 300, 550]
    assert [k_at(epoch, **schedule) for epoch in (21, 23, 26, 31)] == [550, 640, 775, 1000]


def test_an_easy_phase_of_one_epoch_still_begins_with_the_initial_k():
    assert [k_at(epoch, 100, phase_ends=(1, 180)) for epoch in (1, 2, 180)] == [5, 50, 50]


# ---- errors -------------------------------------------------------------------------------------------------------


class Faulty(Distiller):
    """Returns whatever it is told to."""

    def __init__(self, result):
        super().__init__(TinyModel(seed=1), TinyModel(seed=2))
        self.result = result

    def losses(self, student, teacher, labels, progress):
        return self.result


ONE = torch.tensor(1.0)


@pytest.mark.parametrize("key", ["ce", "loss/ce", "task/", "/ce", "task/ce/extra", "Task/ce", ""])
def test_a_component_without_role_and_name_is_reported(key):
    with pytest.raises(ConfigError, match=rf"Faulty\.losses\(\) returned '{key}'.*role one of task, target, nontarget, kd"):
        Faulty({"task/ce": ONE, key: ONE})(*make_batch(), Progress(1, 240))


@pytest.mark.parametrize(("value", "shown"), [(torch.ones(16), r"\[16\]"), (torch.ones(1), r"\[1\]"), (1.0, "float")])
def test_a_component_that_is_no_scalar_tensor_is_reported(value, shown):
    with pytest.raises(ConfigError, match=rf"Faulty\.losses\(\)\['kd/x'\] must be a scalar tensor, not {shown}"):
        Faulty({"task/ce": ONE, "kd/x": value})(*make_batch(), Progress(1, 240))


def test_a_method_without_components_is_reported():
    with pytest.raises(ConfigError, match="returned no component"):
        Faulty({})(*make_batch(), Progress(1, 240))


def test_components_are_still_checked_after_a_failed_call():
    distiller = Faulty({"ce": ONE})
    for _ in range(2):
        with pytest.raises(ConfigError, match="role/name"):
            distiller(*make_batch(), Progress(1, 240))


class Changing(KD):
    """KD whose components are other ones from the third epoch on."""

    def losses(self, student, teacher, labels, progress):
        losses = super().losses(student, teacher, labels, progress)
        return losses if progress.epoch < 3 else self.later(losses)


@pytest.mark.parametrize(
    ("later", "change"),
    [
        (lambda losses: losses | {"kd/late": losses["task/ce"]}, "adds kd/late"),
        (lambda losses: {"task/ce": losses["task/ce"]}, "leaves out nontarget/nckd, target/tckd"),
        (lambda losses: {"task/late": losses["task/ce"]}, "adds task/late and leaves out nontarget/nckd, target/tckd, task/ce"),
    ],
    ids=["new", "missing", "both"],
)
def test_components_that_change_later_are_refused(later, change):
    """The records have a column for each component of the first step: another one would be trained and not recorded."""
    distiller = Changing(TinyModel(seed=1), TinyModel(seed=2))
    distiller.later = later
    distiller.component_names(IMAGE_SHAPE)
    for epoch in (1, 2):
        distiller(*make_batch(), Progress(epoch, 4))
    with pytest.raises(ConfigError, match=rf"^Changing\.losses\(\) {change} in epoch 3: every step returns the same names"):
        distiller(*make_batch(), Progress(3, 4))


@every_taught_distiller
def test_student_and_teacher_of_different_classes_are_reported(name):
    distiller = create_distiller(name, TinyModel(CLASSES), TinyModel(CLASSES + 1))
    with pytest.raises(ConfigError, match="the student has 10 classes and the teacher 11"):
        distiller(*make_batch(), Progress(1, 240))


class WrongShape(TinyModel):
    def forward(self, images):
        return images, {}


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_logits_of_a_wrong_shape_are_reported(who):
    models = {"student": TinyModel(), "teacher": TinyModel()} | {who: WrongShape()}
    with pytest.raises(ConfigError, match=rf"the {who} must return logits \[N, C\] with N = 16, not \[16, 3, 2, 2\]"):
        create_distiller("KD", models["student"], models["teacher"])(*make_batch(), Progress(1, 240))


@pytest.mark.parametrize("phase_ends", [(), (60,), (180, 60), (0, 60), (-5, 60), (60, 120, 180)])
def test_phase_ends_that_are_not_two_rising_epochs_are_refused(phase_ends):
    with pytest.raises(ConfigError, match=r"DEEPKD\.PHASE_ENDS must be two epochs in rising order"):
        make_distiller("DEEPKD", phase_ends=phase_ends)


@pytest.mark.parametrize(
    ("name", "hyper_parameters", "message"),
    [
        ("KD", {"rule": "release"}, r"KD\.RULE must be paper or official, not 'release'"),
        ("DIST", {"parts": 0}, r"DIST\.PARTS must be at least 1, not 0"),
        ("DEEPKD", {"weighting": "both"}, r"DEEPKD\.WEIGHTING must be dkd or kd, not 'both'"),
        ("DEEPKD", {"k_initial": 0.0}, r"DEEPKD\.K_INITIAL must be in \(0, 1\]"),
        ("DEEPKD", {"k_initial": 1.5}, r"DEEPKD\.K_INITIAL must be in \(0, 1\]"),
        ("DEEPKD", {"k_static": 0}, "K_STATIC at least 1"),
        ("PRKD", {"first_epoch": 2}, r"PRKD\.FIRST_EPOCH must be 0 or 1, not 2"),
        ("PRKD", {"average_last": -1}, r"PRKD\.AVERAGE_LAST must not be negative, got -1"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(name, hyper_parameters, message):
    with pytest.raises(ConfigError, match=message):
        make_distiller(name, **hyper_parameters)


@pytest.mark.parametrize(
    ("name", "hyper_parameters", "message"),
    [
        ("GDKD", {"topk": CLASSES}, r"topk must be in \[1, 9\]"),
        ("GDKD", {"kl_type": "backward"}, "unknown kl_type 'backward'"),
        ("GDKD3", {"topk": 1}, r"topk must be in \[2, 9\]"),
        ("PRKD", {"variant": "prkd_c"}, "unknown PRKD variant 'prkd_c'"),
        ("PRKD", {"correlation": "intra"}, "unknown correlation 'intra'"),
    ],
)
def test_hyper_parameters_that_a_loss_refuses_are_refused_before_training(name, hyper_parameters, message):
    with pytest.raises(ConfigError, match=message):
        make_distiller(name, **hyper_parameters).component_names(IMAGE_SHAPE)


# ---- a method with layers of its own ------------------------------------------------------------------------------


class WithLayers(Distiller):
    """Matches a projection of the student's logits to the teacher's."""

    def __init__(self, student, teacher, *, seed=0):
        super().__init__(student, teacher)
        self.projection = TinyModel(seed=seed)  # a batch norm among it: buffers are state, too
        self.teacher_scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def losses(self, student, teacher, labels, progress):
        projected = self.projection.fc(self.projection.norm(student.logits.repeat(1, 2)[:, :12]))
        return {"kd/mse": F.mse_loss(projected, self.teacher_scale * teacher.logits)}


OWN_ENTRIES = {
    "teacher_scale",
    *("projection.fc." + name for name in ("weight", "bias")),
    *("projection.norm." + name for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
}


def test_own_layers_are_learnable_and_the_teacher_is_not():
    distiller = WithLayers(TinyModel(seed=1), TinyModel(seed=2))
    learnable = {id(p) for p in distiller.learnable_parameters()}
    own = [*distiller.projection.parameters(), distiller.teacher_scale]
    assert learnable == {id(p) for p in [*distiller.student.parameters(), *own]}
    distiller(*make_batch(), Progress(1, 240))[1]["kd/mse"].backward()
    assert all(p.grad is not None for p in distiller.learnable_parameters())


def test_own_layers_make_a_round_trip_through_their_own_state():
    first = WithLayers(TinyModel(seed=1), TinyModel(seed=2), seed=3).train()
    first(*make_batch(), Progress(1, 240))  # moves the batch norm's statistics
    second = WithLayers(TinyModel(seed=4), TinyModel(seed=5), seed=6)
    student, teacher = state_of(second.student), state_of(second.teacher)
    saved = first.own_state_dict()
    assert saved.keys() == OWN_ENTRIES
    second.load_own_state_dict(saved)
    assert same_state(second.own_state_dict(), saved)
    assert same_state(state_of(second.projection), state_of(first.projection))
    assert same_state(state_of(second.student), student)
    assert same_state(state_of(second.teacher), teacher)


def test_own_state_of_another_method_is_refused():
    distiller = WithLayers(TinyModel(seed=1), TinyModel(seed=2))
    with pytest.raises(ConfigError, match=r"WithLayers has layers .*teacher_scale.* the checkpoint"):
        distiller.load_own_state_dict({})
    with pytest.raises(ConfigError, match="KD has layers"):
        make_distiller("KD").load_own_state_dict(distiller.own_state_dict())


def test_own_layers_keep_the_students_mode_and_the_teacher_stays_in_eval():
    distiller = WithLayers(TinyModel(seed=1), TinyModel(seed=2))
    distiller.train()
    assert distiller.projection.norm.training
    assert not distiller.teacher.norm.training
    before = state_of(distiller)
    assert distiller.component_names(IMAGE_SHAPE) == ["kd/mse"]
    assert distiller.projection.norm.training
    assert same_state(state_of(distiller), before)
