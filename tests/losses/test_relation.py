"""Losses on relations: Pearson distance, standardisation, DIST and PRKD."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdistiller_ext import losses as L
from tests.support.logits import SAMPLES, close, kl_rows, random_logits

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


def test_temperatures_may_be_tensors():
    student, teacher, labels = random_logits()
    four = torch.tensor(4.0, dtype=torch.float64)
    close(L.kd_loss(student, teacher, temperature=four), kd_at(4.0))
    close(L.dist_loss(student, teacher, beta=1.0, gamma=0.0, temperature=four), dist_at(4.0))
    tckd, nckd = L.tckd_nckd(student, teacher, labels, temperature=four)
    close(tckd + L.non_target_mass(teacher, labels, temperature=four) * nckd, kl_rows(student, teacher, 4.0))


def test_unknown_options_name_the_known_ones():
    student, teacher, _ = random_logits()
    with pytest.raises(ValueError, match=r"unknown kl_type 'backward'\. Known: forward, reverse, both"):
        L.gdkd_loss(student, teacher, w0=1.0, w1=1.0, w2=1.0, topk=5, temperature=4.0, kl_type="backward")
    with pytest.raises(ValueError, match=r"unknown PRKD variant 'prkd_c'\. Known: prkd_a, prkd_b, prkd"):
        prkd_at(0.5, variant="prkd_c")
    with pytest.raises(ValueError, match=r"unknown correlation 'intra'\. Known: inter, inter\+intra"):
        prkd_at(0.5, correlation="intra")
