"""Losses: pinned values of the original code, exact identities, invariances and extreme logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "losses_a.json").read_text())
SAMPLES, CLASSES = 8, 12


def random_logits(seed=0, *, samples=SAMPLES, classes=CLASSES, scale=3.0, dtype=torch.float64):
    """(student, teacher, labels); half of the labels are the teacher's first choice, as in practice."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)).to(dtype)
    labels = torch.randint(classes, (samples,), generator=generator)
    labels[::2] = teacher.argmax(dim=1)[::2]
    return student, teacher, labels


def random_mask(seed=0, *, samples=SAMPLES, classes=CLASSES):
    """Random subsets of the classes, among them everything and nothing."""
    mask = torch.rand(samples, classes, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[0], mask[1] = True, False
    return mask


def target_mask(labels, classes=CLASSES):
    return F.one_hot(labels, classes).bool()


def kl_rows(student, teacher, temperature):
    """T^2 KL(teacher || student) per sample by torch's own function."""
    log_q, log_p = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def kl_of_kept_classes(student, teacher, keep, temperature):
    """The same after dropping the columns that ``keep`` leaves out, one sample at a time."""
    rows = [kl_rows(s[k][None], t[k][None], temperature) for s, t, k in zip(student, teacher, keep, strict=True)]
    return torch.cat(rows)


def value_and_gradient(loss, student, teacher, labels):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, labels)
    return value.detach(), torch.autograd.grad(value, student)[0]


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


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


# ---- identities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_tckd_plus_non_target_mass_times_nckd_for_each_sample(temperature):
    student, teacher, labels = random_logits()
    tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=temperature)
    p_target = (teacher / temperature).softmax(1).gather(1, labels[:, None]).squeeze(1)
    kd = kl_rows(student, teacher, temperature)
    close(tckd + (1 - p_target) * nckd, kd)
    close(L.non_target_mass(teacher, labels, temperature=temperature), 1 - p_target)
    close(L.kd_loss(student, teacher, temperature=temperature), kd.mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_binary_plus_the_parts_weighted_by_the_teachers_masses(seed, temperature):
    student, teacher, _ = random_logits(seed)
    mask = random_mask(seed)
    binary, inside, outside = L.partition_kl(student, teacher, mask, temperature)
    mass = ((teacher / temperature).softmax(1) * mask).sum(1)
    close(binary + mass * inside + (1 - mass) * outside, kl_rows(student, teacher, temperature))


def test_each_part_of_a_partition_is_the_kl_of_its_own_classes():
    student, teacher, _ = random_logits()
    mask = random_mask(3)
    binary, inside, outside = L.partition_kl(student, teacher, mask, 2.0)
    close(inside[2:], kl_of_kept_classes(student, teacher, mask, 2.0)[2:])
    close(outside[2:], kl_of_kept_classes(student, teacher, ~mask, 2.0)[2:])
    p, q = (((logits / 2.0).softmax(1) * mask).sum(1)[2:] for logits in (teacher, student))
    close(binary[2:], 4.0 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()))


def test_a_mask_of_everything_or_nothing_leaves_one_part_with_the_whole_kl():
    student, teacher, _ = random_logits()
    whole = kl_rows(student, teacher, 2.0)
    nothing, everything = torch.zeros_like(student, dtype=torch.bool), torch.ones_like(student, dtype=torch.bool)
    zero = torch.zeros_like(whole)
    for actual, expected in zip(L.partition_kl(student, teacher, everything, 2.0), (zero, whole, zero), strict=True):
        close(actual, expected)
    for actual, expected in zip(L.partition_kl(student, teacher, nothing, 2.0), (zero, zero, whole), strict=True):
        close(actual, expected)


def test_kl_type_turns_the_leaves_around_and_never_the_binary_part():
    student, teacher, _ = random_logits()
    mask = random_mask()
    forward, reverse, both = (L.partition_kl(student, teacher, mask, 2.0, kind) for kind in ("forward", "reverse", "both"))
    swapped = L.partition_kl(teacher, student, mask, 2.0)
    for leaf in (1, 2):
        close(reverse[leaf], swapped[leaf])
        close(both[leaf], (forward[leaf] + swapped[leaf]) / 2)
        assert (forward[leaf] - swapped[leaf]).abs().max() > 0.1
    close(reverse[0], forward[0])
    close(both[0], forward[0])
    assert (swapped[0] - forward[0]).abs().max() > 0.1


def test_the_partition_at_the_target_is_dkd():
    student, teacher, labels = random_logits()
    binary, inside, outside = L.partition_kl(student, teacher, target_mask(labels), 4.0)
    tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=4.0)
    close(binary, tckd)
    close(outside, nckd)
    assert (inside == 0).all()


@pytest.mark.parametrize("topk", [1, 5, CLASSES - 1])
def test_the_partition_at_the_teachers_top_k_is_gdkd(topk):
    student, teacher, _ = random_logits()
    mask = teacher >= teacher.sort(dim=1, descending=True).values[:, topk - 1 : topk]
    parts = [part.mean() for part in L.partition_kl(student, teacher, mask, 4.0, "both")]
    for actual, expected in zip(L.gdkd_parts(student, teacher, topk=topk, temperature=4.0, kl_type="both"), parts, strict=True):
        close(actual, expected)


def test_gdkd_at_top_1_is_dkd_where_the_teacher_is_right():
    student, teacher, _ = random_logits()
    labels = teacher.argmax(1)
    ours = L.gdkd_loss(student, teacher, w0=1.5, w1=77.0, w2=8.0, topk=1, temperature=4.0)
    close(ours, L.dkd_loss(student, teacher, labels, alpha=1.5, beta=8.0, temperature=4.0))


def test_kd_is_gdkd3s_three_groups_weighted_by_the_teachers_masses():
    student, teacher, _ = random_logits(samples=1)
    order = teacher.argsort(1, descending=True)
    student, teacher = student.gather(1, order), teacher.gather(1, order)
    high, top, rest = L.gdkd3_parts(student, teacher, topk=4, temperature=2.0)
    p = (teacher / 2.0).softmax(1)[0]
    close(high + p[1:4].sum() * top + p[4:].sum() * rest, kl_rows(student, teacher, 2.0)[0])
    close(top, kl_rows(student[:, 1:4], teacher[:, 1:4], 2.0)[0])
    close(rest, kl_rows(student[:, 4:], teacher[:, 4:], 2.0)[0])


def test_dkd_weighs_its_parts_by_alpha_and_beta():
    student, teacher, labels = random_logits()
    tckd = kl_rows(student, teacher, 4.0) - L.non_target_mass(teacher, labels, temperature=4.0) * kl_of_kept_classes(
        student, teacher, ~target_mask(labels), 4.0
    )
    nckd = kl_of_kept_classes(student, teacher, ~target_mask(labels), 4.0)
    loss = L.dkd_loss(student, teacher, labels, alpha=0.5, beta=3.0, temperature=4.0)
    close(loss, 0.5 * tckd.mean() + 3.0 * nckd.mean())


def test_keeping_every_non_target_class_changes_nothing():
    student, teacher, labels = random_logits()
    plain = L.tckd_nckd(student, teacher, labels, temperature=4.0)
    kept = L.tckd_nckd(student, teacher, labels, temperature=4.0, keep=~target_mask(labels))
    close(kept[0], plain[0])
    close(kept[1], plain[1])


def test_a_kept_target_is_ignored():
    student, teacher, labels = random_logits()
    keep = random_mask(5) & ~target_mask(labels)
    without = L.tckd_nckd(student, teacher, labels, temperature=4.0, keep=keep)[1]
    close(L.tckd_nckd(student, teacher, labels, temperature=4.0, keep=keep | target_mask(labels))[1], without)


def test_nckd_is_renormalised_over_the_kept_classes_and_tckd_sees_all_of_them():
    student, teacher, labels = random_logits()
    keep = L.top_k_mask(teacher, labels, 4)
    tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=4.0, keep=keep)
    close(nckd, kl_of_kept_classes(student, teacher, keep, 4.0))
    close(tckd, L.tckd_nckd(student, teacher, labels, temperature=4.0)[0])


def test_keeping_no_class_gives_no_nckd_and_finite_gradients():
    student, teacher, labels = random_logits()
    student.requires_grad_()
    keep = torch.zeros_like(student, dtype=torch.bool)
    nckd = L.tckd_nckd(student, teacher, labels, temperature=4.0, keep=keep)[1]
    assert (nckd == 0).all()
    assert (torch.autograd.grad(nckd.sum(), student)[0] == 0).all()


def test_non_target_mass_is_exact_where_the_targets_probability_rounds_to_one():
    teacher = torch.zeros(1, 10)
    teacher[0, 3] = 60.0
    mass = L.non_target_mass(teacher, torch.tensor([3]), temperature=1.0)
    assert 1 - teacher.softmax(1)[0, 3] == 0
    assert mass.item() == pytest.approx(9 * np.exp(-60.0), rel=1e-4, abs=0)


# ---- top_k_mask ---------------------------------------------------------------------------------------------------

K_KINDS = {"int": int, "tensor": torch.tensor, "float tensor": lambda k: torch.tensor(float(k))}
every_kind_of_k = pytest.mark.parametrize("kind", K_KINDS.values(), ids=K_KINDS.keys())


@every_kind_of_k
@pytest.mark.parametrize("k", [1, 4, CLASSES - 1])
def test_top_k_mask_is_the_head_of_the_ranking_without_the_target(kind, k):
    _, teacher, labels = random_logits()
    mask = L.top_k_mask(teacher, labels, kind(k))
    assert mask.dtype == torch.bool
    for row, logits, label in zip(mask, teacher, labels.tolist(), strict=True):
        ranking = sorted((c for c in range(CLASSES) if c != label), key=lambda c: -logits[c].item())
        assert set(row.nonzero().flatten().tolist()) == set(ranking[:k])


@every_kind_of_k
@pytest.mark.parametrize("k", [1, 4, CLASSES - 1])
def test_top_k_mask_keeps_exactly_k_classes_and_no_target_where_logits_tie(kind, k):
    _, _, labels = random_logits()
    for teacher in (
        torch.zeros(SAMPLES, CLASSES),
        target_mask(labels).float(),
        torch.arange(CLASSES).div(3).floor().repeat(8, 1),
    ):
        mask = L.top_k_mask(teacher, labels, kind(k))
        assert (mask.sum(1) == k).all()
        assert not mask[target_mask(labels)].any()


@every_kind_of_k
@pytest.mark.parametrize("k", [CLASSES - 1, CLASSES, 10 * CLASSES])
def test_top_k_mask_of_many_classes_keeps_every_non_target_class(kind, k):
    _, teacher, labels = random_logits()
    assert torch.equal(L.top_k_mask(teacher, labels, kind(k)), ~target_mask(labels))


@every_kind_of_k
def test_top_k_mask_of_no_class_is_empty(kind):
    _, teacher, labels = random_logits()
    assert not L.top_k_mask(teacher, labels, kind(0)).any()


# ---- pearson_distance, standardize, DIST --------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1])
def test_pearson_distance_is_one_minus_numpys_correlation(dim):
    student, teacher, _ = random_logits()
    rows = zip(*(x.numpy() if dim == 1 else x.numpy().T for x in (student, teacher)), strict=True)
    expected = [1 - np.corrcoef(a, b)[0, 1] for a, b in rows]
    close(L.pearson_distance(student, teacher, dim), torch.tensor(expected), 1e-8)


def test_pearson_distance_by_row_ignores_positive_affine_maps_of_rows():
    a, b, _ = random_logits()
    generator = torch.Generator().manual_seed(1)
    scale = 0.5 + torch.rand(SAMPLES, 1, generator=generator, dtype=torch.float64)
    shift = torch.randn(SAMPLES, 1, generator=generator, dtype=torch.float64)
    plain = L.pearson_distance(a, b, 1)
    close(L.pearson_distance(scale * a + shift, b, 1), plain, 1e-8)
    close(L.pearson_distance(a, scale * b + shift, 1), plain, 1e-8)
    assert (L.pearson_distance(scale * a + shift, b, 0) - L.pearson_distance(a, b, 0)).abs().max() > 1e-3


def test_pearson_distance_runs_from_zero_for_equals_to_two_for_opposites():
    a, b, _ = random_logits(samples=500)
    distance = L.pearson_distance(a, b, 1)
    assert distance.min() >= 0
    assert distance.max() <= 2
    close(L.pearson_distance(a, a, 1), torch.zeros_like(distance), 1e-8)
    close(L.pearson_distance(a, -a, 1), torch.full_like(distance, 2.0), 1e-8)


def test_pearson_distance_adds_1e_8_to_the_product_of_the_norms():
    vector = torch.tensor([[1.0, -1.0]], dtype=torch.float64) / 2**0.5  # centred, of norm 1
    assert L.pearson_distance(1e-4 * vector, 1e-4 * vector, 1).item() == pytest.approx(0.5, rel=1e-12)


def test_a_vector_without_variance_is_at_distance_one_without_gradient():
    a = torch.full((1, 5), 3.0, dtype=torch.float64, requires_grad=True)
    b = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distance = L.pearson_distance(a, b, 1)
    assert distance.item() == 1
    assert torch.autograd.grad(distance.sum(), a)[0].isfinite().all()


def test_standardized_rows_have_mean_zero_and_unbiased_deviation_one():
    student, _, _ = random_logits()
    rows = L.standardize(student).numpy()
    np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(rows.std(axis=1, ddof=1), 1, atol=1e-6)


def test_standardize_ignores_shift_and_positive_scale_of_rows():
    student, _, _ = random_logits()
    scale = torch.linspace(0.5, 5, SAMPLES, dtype=torch.float64)[:, None]
    close(L.standardize(scale * student - 7), L.standardize(student), 1e-6)


def test_constant_logits_standardize_to_zero_with_finite_gradients():
    logits = torch.full((2, 5), 3.0, requires_grad=True)
    standardized = L.standardize(logits)
    assert (standardized == 0).all()
    assert torch.autograd.grad(standardized[:, 0].sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_correlates_softened_probabilities_by_row_and_by_column(temperature):
    student, teacher, _ = random_logits()
    inter, intra = L.dist_parts(student, teacher, temperature=temperature)
    p, q = ((logits / temperature).softmax(1).numpy() for logits in (student, teacher))
    by_row = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    by_column = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    assert inter.item() == pytest.approx(temperature**2 * by_row, rel=1e-5)
    assert intra.item() == pytest.approx(temperature**2 * by_column, rel=1e-3)  # small columns feel the 1e-8
    loss = L.dist_loss(student, teacher, beta=2.0, gamma=3.0, temperature=temperature)
    close(loss, 2 * inter + 3 * intra)


def test_the_intra_part_of_a_single_sample_is_zero_without_gradient():
    student, teacher, _ = random_logits(samples=1)
    student.requires_grad_()
    inter, intra = L.dist_parts(student, teacher, temperature=4.0)
    assert intra.item() == 0
    assert (torch.autograd.grad(intra, student, retain_graph=True)[0] == 0).all()
    assert torch.autograd.grad(inter, student)[0].abs().max() > 0


# ---- PRKD ---------------------------------------------------------------------------------------------------------


def prkd_at(fraction, *, variant="prkd", **options):
    student, teacher, _ = random_logits()
    return L.prkd_loss(student, teacher, fraction=fraction, temperature=4.0, final_temperature=1.0, variant=variant, **options)


def kd_at(temperature):
    student, teacher, _ = random_logits()
    return kl_rows(student, teacher, temperature).mean()


def dist_at(temperature, gamma=0.0):
    student, teacher, _ = random_logits()
    return L.dist_loss(student, teacher, beta=1.0, gamma=gamma, temperature=temperature)


@pytest.mark.parametrize("variant", ["prkd_a", "prkd_b", "prkd"])
def test_prkd_starts_as_kd(variant):
    close(prkd_at(0.0, variant=variant), kd_at(4.0))


@pytest.mark.parametrize("variant", ["prkd_b", "prkd"])
def test_prkd_ends_as_the_correlation_by_row_at_the_fixed_temperature(variant):
    close(prkd_at(1.0, variant=variant), dist_at(4.0))


def test_prkd_a_ends_as_kd_at_the_final_temperature():
    close(prkd_at(1.0, variant="prkd_a"), kd_at(1.0))


@pytest.mark.parametrize(("fraction", "temperature"), [(0.25, 3.25), (0.5, 2.5), (0.75, 1.75)])
def test_prkd_fades_and_cools_linearly(fraction, temperature):
    close(prkd_at(fraction, variant="prkd_a"), kd_at(temperature))
    close(prkd_at(fraction, variant="prkd_b"), (1 - fraction) * kd_at(4.0) + fraction * dist_at(4.0))
    close(prkd_at(fraction, variant="prkd"), (1 - fraction) * kd_at(temperature) + fraction * dist_at(4.0))


def test_prkd_takes_its_fraction_as_a_tensor():
    close(prkd_at(torch.tensor(0.25, dtype=torch.float64)), 0.75 * kd_at(3.25) + 0.25 * dist_at(4.0))


def test_prkd_can_use_both_correlations_of_dist():
    close(prkd_at(1.0, correlation="inter+intra"), dist_at(4.0, gamma=1.0))
    close(prkd_at(0.5, correlation="inter+intra", variant="prkd_b"), (kd_at(4.0) + dist_at(4.0, gamma=1.0)) / 2)


def test_prkd_without_squared_temperature_divides_each_term_by_its_own():
    close(prkd_at(0.5, t_squared=False), 0.5 * kd_at(2.5) / 2.5**2 + 0.5 * dist_at(4.0) / 4.0**2)
    close(prkd_at(0.5, variant="prkd_a", t_squared=False), kd_at(2.5) / 2.5**2)
    close(prkd_at(0.5, variant="prkd_b", t_squared=False), 0.5 * (kd_at(4.0) + dist_at(4.0)) / 4.0**2)


def test_prkd_parts_carry_their_weights_of_the_moment():
    student, teacher, _ = random_logits()
    options = {"fraction": 0.25, "temperature": 4.0, "final_temperature": 1.0}
    kl, correlation = L.prkd_parts(student, teacher, **options)
    close(kl, 0.75 * kd_at(3.25))
    close(correlation, 0.25 * dist_at(4.0))
    assert L.prkd_parts(student, teacher, variant="prkd_a", **options)[1].item() == 0


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


def test_temperatures_may_be_tensors():
    student, teacher, labels = random_logits()
    four = torch.tensor(4.0, dtype=torch.float64)
    close(L.kd_loss(student, teacher, temperature=four), kd_at(4.0))
    close(L.dist_loss(student, teacher, beta=1.0, gamma=0.0, temperature=four), dist_at(4.0))
    tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=four)
    close(tckd + L.non_target_mass(teacher, labels, temperature=four) * nckd, kl_rows(student, teacher, 4.0))


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topk", [-1, 0, CLASSES, CLASSES + 1])
def test_gdkd_refuses_a_topk_that_leaves_a_group_empty(topk):
    student, teacher, _ = random_logits()
    with pytest.raises(ValueError, match=rf"topk must be in \[1, {CLASSES - 1}\] for {CLASSES} classes, not {topk}"):
        L.gdkd_loss(student, teacher, w0=1.0, w1=1.0, w2=1.0, topk=topk, temperature=4.0)


@pytest.mark.parametrize("topk", [0, 1, CLASSES])
def test_gdkd3_refuses_a_topk_that_leaves_a_group_empty(topk):
    student, teacher, _ = random_logits()
    with pytest.raises(ValueError, match=rf"topk must be in \[2, {CLASSES - 1}\] for {CLASSES} classes, not {topk}"):
        L.gdkd3_loss(student, teacher, w0=1.0, w1=1.0, w2=1.0, topk=topk, temperature=4.0)


def test_unknown_options_name_the_known_ones():
    student, teacher, _ = random_logits()
    with pytest.raises(ValueError, match=r"unknown kl_type 'backward'\. Known: forward, reverse, both"):
        L.gdkd_loss(student, teacher, w0=1.0, w1=1.0, w2=1.0, topk=5, temperature=4.0, kl_type="backward")
    with pytest.raises(ValueError, match=r"unknown PRKD variant 'prkd_c'\. Known: prkd_a, prkd_b, prkd"):
        prkd_at(0.5, variant="prkd_c")
    with pytest.raises(ValueError, match=r"unknown correlation 'intra'\. Known: inter, inter\+intra"):
        prkd_at(0.5, correlation="intra")


def test_top_k_mask_of_tied_logits_is_the_same_for_a_number_and_a_tensor():
    logits, labels = torch.zeros(4, 10), torch.arange(4)
    assert torch.equal(L.top_k_mask(logits, labels, 3), L.top_k_mask(logits, labels, torch.tensor(3)))
