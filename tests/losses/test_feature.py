"""Losses on feature maps: AT, NST, VID, KDSVD, OFD and HCL.

``tests/golden/feature.npz`` holds losses and gradients of mdistiller's functions (snapshot a08d46f; ``kdsvd*_paper``:
RepDistiller's, b84f547) on ``random_maps`` of the shapes below: the student's with seed 0, the teacher's with seed 1, log
scales and margins with seed 2. They ran in float64: ``Tensor.float`` and ``FloatTensor`` were replaced by their float64 forms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mdistiller_ext import losses as L
from tests.support.logits import close
from tests.support.maps import random_maps

GOLDEN = Path(__file__).parents[1] / "golden" / "feature.npz"
STUDENT = ((3, 5, 8, 8), (3, 6, 4, 4), (3, 7, 6, 6))
TEACHER = ((3, 4, 8, 8), (3, 6, 8, 8), (3, 9, 3, 3))
EQUAL = ((3, 5, 8, 8), (3, 6, 7, 7), (3, 7, 4, 4))
ONE = (2, 4, 6, 6)


def summed(loss, **options):
    """The loss of the STUDENT's maps against the TEACHER's, summed over pairs."""

    def total(maps):
        return sum(loss(s, t, **options) for s, t in zip(maps, random_maps(TEACHER, 1), strict=True))

    return total, random_maps(STUDENT)


def vid_case():
    def total(inputs):
        return sum(L.vid_loss(m, scale, t) for m, scale, t in zip(inputs[:3], inputs[3:], random_maps(EQUAL, 1), strict=True))

    return total, random_maps(EQUAL) + random_maps([(shape[1],) for shape in EQUAL], 2)


def kdsvd_case(k, rule):
    if rule == "mdistiller":
        student, teacher = ((3, 4, 8, 8), (3, 6, 7, 7), (3, 8, 4, 4)), EQUAL
    else:
        student, teacher = ((3, 5, 8, 8), (3, 6, 4, 4), (3, 9, 2, 2)), ((3, 5, 4, 4), (3, 6, 8, 8), (3, 9, 3, 3))
    return lambda maps: L.kdsvd_loss(maps, random_maps(teacher, 1), k=k, rule=rule), random_maps(student)


def ofd_case():
    shape = (3, 6, 5, 5)
    margin = -random_maps([(6,)], 2)[0].abs()
    return lambda maps: L.ofd_loss(maps[0], random_maps([shape], 1)[0], margin), random_maps([shape])


def hcl_case(size):
    shape = (2, 3, size, size)
    return lambda maps: L.hcl_loss(maps[0], random_maps([shape], 1)[0]), random_maps([shape])


CASES = {
    "at": summed(L.at_loss),
    "at4": summed(L.at_loss, p=4),
    "nst": summed(L.nst_loss),
    "vid": vid_case(),
    "kdsvd1": kdsvd_case(1, "mdistiller"),
    "kdsvd2": kdsvd_case(2, "mdistiller"),
    "kdsvd1_paper": kdsvd_case(1, "paper"),
    "kdsvd2_paper": kdsvd_case(2, "paper"),
    "ofd": ofd_case(),
    **{f"hcl{size}": hcl_case(size) for size in (1, 2, 3, 4, 7, 8)},
}


# ---- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_upstreams(name):
    loss_of, inputs = CASES[name]
    inputs = [x.clone().requires_grad_() for x in inputs]
    loss = loss_of(inputs)
    with np.load(GOLDEN) as golden:
        close(loss.item(), golden[f"{name}/loss"].item(), 1e-10)
        for i, gradient in enumerate(torch.autograd.grad(loss, inputs)):
            close(gradient, torch.from_numpy(golden[f"{name}/gradient{i}"]), 1e-10)


def vid(student, teacher):
    return L.vid_loss(student, torch.linspace(-1, 1, student.shape[1], dtype=student.dtype), teacher)


def kdsvd(student, teacher, rule="paper"):
    """Of the maps and their averages."""
    return L.kdsvd_loss([student, L.mean_pool(student, (3, 3))], [teacher, L.mean_pool(teacher, (3, 3))], rule=rule)


def ofd(student, teacher):
    return L.ofd_loss(student, teacher, torch.full(student.shape[1:2], -0.5, dtype=student.dtype))


SINGLE = {
    "at": L.at_loss,
    "nst": L.nst_loss,
    "vid": vid,
    "kdsvd": kdsvd,
    "kdsvd_mdistiller": lambda s, t: kdsvd(s, t, rule="mdistiller"),
    "ofd": ofd,
    "hcl": L.hcl_loss,
}
every_loss = pytest.mark.parametrize("name", SINGLE)


@every_loss
def test_gradients_are_those_of_finite_differences(name):
    (student,), (teacher,) = random_maps([ONE]), random_maps([ONE], 1)
    assert torch.autograd.gradcheck(lambda s: SINGLE[name](s, teacher), student.requires_grad_())


@every_loss
def test_losses_are_means_over_the_batch(name):
    (student,), (teacher,) = random_maps([ONE]), random_maps([ONE], 1)
    rows = [SINGLE[name](s[None], t[None]) for s, t in zip(student, teacher, strict=True)]
    close(SINGLE[name](student, teacher), torch.stack(rows).mean(), 1e-10)


@pytest.mark.parametrize("name", [name for name in SINGLE if name != "vid"])
def test_equal_features_have_no_loss_and_no_gradient(name):
    (student,), (other,) = random_maps([ONE]), random_maps([ONE], 1)
    teacher = student.clone()
    loss = SINGLE[name](student.requires_grad_(), teacher)
    close(loss, torch.zeros_like(loss))
    close(torch.autograd.grad(loss, student)[0], torch.zeros_like(student), 1e-10)
    assert SINGLE[name](student, other) > 1e-3


EXTREME = {
    "large": 1e4 * random_maps([ONE], 2)[0],
    "zeros": torch.zeros(ONE, dtype=torch.float64),
    "constant": torch.ones(ONE, dtype=torch.float64),
    "dead channels": random_maps([ONE], 2)[0] * torch.tensor([1.0, 0, 0, 0])[:, None, None],
    "usual": random_maps([ONE], 3)[0],
}


@every_loss
@pytest.mark.parametrize("extreme", [kind for kind in EXTREME if kind != "usual"])
def test_extreme_maps_have_finite_losses_and_gradients(name, extreme):
    for student, teacher in ((EXTREME[extreme], EXTREME["usual"]), (EXTREME["usual"], EXTREME[extreme])):
        student = student.float().requires_grad_()
        loss = SINGLE[name](student, teacher.float())
        assert loss.isfinite()
        assert torch.autograd.grad(loss, student)[0].isfinite().all()


# ---- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 12), (4, 6), (4, 12), (3, 5), (1, 1), (8, 5), (16, 24)])
def test_mean_pool_is_adaptive_average_pooling(size):
    (maps,) = random_maps([(2, 3, 8, 12)])
    close(L.mean_pool(maps, size), torch.nn.functional.adaptive_avg_pool2d(maps, size))


def test_each_dimension_is_pooled_to_the_smaller():
    student, teacher = L.pool_to_smaller(*random_maps([(2, 3, 8, 6), (2, 5, 4, 12)]))
    assert student.shape == (2, 3, 4, 6)
    assert teacher.shape == (2, 5, 4, 6)


# ---- AT and NST ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [L.at_loss, L.nst_loss])
def test_order_and_positive_scale_of_channels_do_not_matter(loss):
    student, teacher = random_maps([ONE, (2, 3, 6, 6)])
    plain = loss(student, teacher)
    close(loss(student[:, [2, 0, 3, 1]], 7 * teacher.flip(1)), plain)
    one_channel = torch.tensor([1.0, 1.0, 5.0, 1.0])[:, None, None] * student
    if loss is L.nst_loss:  # each channel is normalised by itself, for attention they are added first
        close(loss(one_channel, teacher), plain)
    else:
        assert (loss(one_channel, teacher) - plain).abs() > 1e-4


def test_attention_takes_the_magnitude_of_activations_at_odd_powers():
    student, teacher = random_maps([ONE, ONE])
    close(L.at_loss(-student, teacher, p=3), L.at_loss(student, teacher, p=3))


@pytest.mark.parametrize("edge", [1, 2, 4])
def test_nst_of_many_channels_on_few_positions_is_that_of_all_pairs(edge):
    student, teacher = random_maps([(2, 8, edge, edge), (2, 6, edge, edge)])
    s, t = (torch.nn.functional.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))
    means = [torch.einsum("ncp,ndp->ncd", a, b).square().mean() for a, b in ((t, t), (s, s), (s, t))]
    close(L.nst_loss(student, teacher), means[0] + means[1] - 2 * means[2])


@pytest.mark.parametrize("shape", [(2, 16, 8, 8), (2, 64, 2, 2)])
def test_nst_keeps_no_tensor_larger_than_a_map(shape):
    student, teacher = random_maps([shape] * 2)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
        L.nst_loss(student.requires_grad_(), teacher)
    assert max(sizes) <= student.numel()


# ---- VID ----------------------------------------------------------------------------------------------------------


def test_vid_is_the_negative_log_likelihood_without_its_constant():
    mean, teacher = random_maps([ONE, ONE])
    (log_scale,) = random_maps([(4,)], 2)
    variance = torch.log1p(log_scale.exp()) + 1e-5
    likelihood = torch.distributions.Normal(mean, variance.sqrt()[:, None, None]).log_prob(teacher)
    close(L.vid_loss(mean, log_scale, teacher), -likelihood.mean() - 0.5 * np.log(2 * np.pi))


def test_the_best_variance_is_the_squared_error():
    mean, errors = torch.zeros(ONE, dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0, 5.0], dtype=torch.float64)
    teacher = errors[:, None, None].expand(ONE)
    log_scale = torch.log(torch.expm1(errors.square() - 1e-5)).requires_grad_()
    gradient = torch.autograd.grad(L.vid_loss(mean, log_scale, teacher), log_scale)[0]
    close(gradient, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("log_scale", [-1e3, 1e3])
def test_extreme_variances_are_finite(log_scale):
    mean, teacher = random_maps([ONE, ONE])
    scale = torch.full((4,), log_scale, dtype=torch.float64, requires_grad=True)
    loss = L.vid_loss(mean, scale, teacher)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, scale)[0].isfinite().all()


# ---- KDSVD --------------------------------------------------------------------------------------------------------


def test_order_of_positions_and_scale_of_the_students_maps_do_not_matter():
    student, teacher = random_maps(EQUAL), random_maps(EQUAL, 1)
    plain = L.kdsvd_loss(student, teacher)
    moved = [3 * maps.flip(2).transpose(2, 3) for maps in student]
    close(L.kdsvd_loss(moved, teacher), plain, 1e-10)
    assert (L.kdsvd_loss(moved, teacher, rule="mdistiller") - L.kdsvd_loss(student, teacher, rule="mdistiller")).abs() > 1e-6


@pytest.mark.parametrize("rule", ["paper", "mdistiller"])
@pytest.mark.parametrize("values", [[3, 1, 1, 1, 1, 1], [5, 4, 3, 2, 0, 0]], ids=["repeated", "dead"])
def test_gradients_exist_for_repeated_singular_values(rule, values):
    """The vector that the teacher's is paired with is a function of the map; torch divides by all differences of values."""
    matrix = torch.tensor(values, dtype=torch.float64).diag()[None]
    student = [(scale * matrix).requires_grad_() for scale in (1, 2)]
    teacher = [torch.diag(torch.arange(6.0, 0, -1, dtype=torch.float64))[None] + 0.1 * x for x in random_maps([(1, 6, 6)] * 2)]

    def loss(*matrices):
        maps = [m.mT[..., None] if rule == "paper" else m[:, None] for m in (*matrices, *teacher)]
        return L.kdsvd_loss(maps[:2], maps[2:], rule=rule)

    assert torch.autograd.gradcheck(loss, student)
    assert max(gradient.abs().max() for gradient in torch.autograd.grad(loss(*student), student)) > 1e-4
    first = torch.linalg.svd(student[0], full_matrices=False).Vh[:, 0]
    assert torch.autograd.grad(first.sum(), student[0])[0].isnan().any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_maps_give_a_non_finite_loss_rather_than_an_error_of_the_svd(value):
    student, teacher = random_maps(EQUAL), random_maps(EQUAL, 1)
    student[1][0, 0, 0, 0] = value
    assert not L.kdsvd_loss(student, teacher).isfinite()


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown rule 'official'\. Known: paper, mdistiller"):
        L.kdsvd_loss(random_maps(EQUAL), random_maps(EQUAL), rule="official")


# ---- OFD ----------------------------------------------------------------------------------------------------------


def test_margins_are_upstreams():
    state = np.random.RandomState(3)
    std, mean = torch.tensor(state.standard_normal(8)), torch.tensor(2 * state.standard_normal(8))
    mean[0], mean[1] = 9.0, -9.0
    with np.load(GOLDEN) as golden:
        close(L.negative_mean(mean, std), torch.from_numpy(golden["margins"]), 1e-10)


def test_a_margin_is_the_mean_of_the_negative_part():
    mean, std = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64), torch.tensor([1.0, -0.7, 0.5], dtype=torch.float64)
    x = torch.linspace(-12, 0, 200_001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((x - mean[:, None]) / std[:, None]).square())
    expected = torch.trapezoid(x * density, x) / torch.trapezoid(density, x)
    close(L.negative_mean(mean, std), expected, 1e-7)


def test_a_channel_that_is_hardly_negative_or_constant_has_a_margin():
    mean = torch.tensor([4.0, 2.0, -2.0, 0.0])
    std = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert torch.equal(L.negative_mean(mean, std), torch.tensor([-3.0, 0.0, -2.0, 0.0]))


def test_ofd_asks_only_for_what_passes_the_margin():
    """By position: teacher, student, and the distance that counts, for a margin of -1."""
    table = [
        (2.0, -3.0, 5.0),  # the teacher is active: the student follows it from both sides
        (2.0, 3.0, 1.0),
        (-0.5, 1.0, 1.5),  # between margin and zero: the student comes down to it
        (-0.5, -2.0, 0.0),  # and stays where it is below
        (-4.0, 1.0, 2.0),  # below the margin: the student comes down to the margin
        (-4.0, -2.0, 0.0),
    ]
    teacher, student, distance = torch.tensor(table, dtype=torch.float64).T
    loss = L.ofd_loss(student.view(1, 1, 2, 3), teacher.view(1, 1, 2, 3), torch.tensor([-1.0], dtype=torch.float64))
    close(loss, distance.square().sum())


# ---- HCL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 3, 3, 3), (2, 3, 8, 8), (2, 3, 4, 6)])
def test_a_constant_difference_counts_once_whatever_the_size(shape):
    (maps,) = random_maps([shape])
    close(L.hcl_loss(maps + 3, maps), torch.tensor(9.0, dtype=torch.float64))


def test_hcl_weights_its_levels_by_halves():
    """A checkerboard has no difference at the pooled levels."""
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(4, 4)[None, None]
    close(L.hcl_loss(board, torch.zeros_like(board)), torch.tensor(1 / 1.875, dtype=torch.float64))
