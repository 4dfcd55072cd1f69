"""RKD, SP and PKT.

``golden/sample_relation.npz``: random features, and loss and gradient of mdistiller's functions for them in float64.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from tests.support.golden import golden
from tests.support.logits import close

LOSSES = {
    "rkd": L.rkd_loss,
    "rkd_squared": lambda student, teacher: L.rkd_loss(student, teacher, squared=True),
    "sp": L.sp_loss,
    "pkt": L.pkt_loss,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def features(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss_and_gradient(name, student, teacher):
    student = student.clone().requires_grad_()
    loss = LOSSES[name](student, teacher)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


@every_loss
def test_loss_and_gradient_equal_mdistillers(name):
    arrays = golden("sample_relation")
    loss, gradient = loss_and_gradient(name, arrays[f"{name}/student"], arrays[f"{name}/teacher"])
    close(loss, arrays[f"{name}/loss"], 1e-10)
    close(gradient, arrays[f"{name}/gradient"], 1e-10)
    assert gradient.abs().max() > 1e-6


@every_loss
def test_gradients_are_those_of_finite_differences(name):
    student, teacher = features(5, 4, seed=1).requires_grad_(), features(5, 3, seed=2)
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, teacher), student)


@every_loss
def test_equal_features_cost_nothing(name):
    student = features(6, 4)
    loss, gradient = loss_and_gradient(name, student, student)
    close(loss, torch.zeros_like(loss), 1e-14)
    close(gradient, torch.zeros_like(gradient), 1e-8)
    assert LOSSES[name](student, features(6, 4, seed=1)) > 1e-4


@every_loss
def test_a_single_sample_has_no_relations(name):
    loss, gradient = loss_and_gradient(name, features(1, 4), features(1, 3, seed=1))
    assert loss.item() == 0
    assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("scale", [0.3, 50.0])
def test_scale_and_rotation_of_all_features_do_not_matter(name, scale):
    student, teacher = features(6, 4), features(6, 4, seed=1)
    rotation = torch.linalg.qr(features(4, 4, seed=2)).Q
    close(LOSSES[name](scale * student @ rotation, teacher), LOSSES[name](student, teacher), 1e-6)  # PKT adds 1e-7 to norms


def test_rkd_does_not_depend_on_the_origin():
    student, teacher = features(6, 4), features(6, 3, seed=1)
    close(L.rkd_loss(student + 7, teacher - 3), L.rkd_loss(student, teacher), 1e-12)


@every_loss
def test_maps_are_flattened_per_sample(name):
    student, teacher = features(5, 2, 3, 2), features(5, 7, seed=1)
    close(LOSSES[name](student, teacher), LOSSES[name](student.flatten(1), teacher))


@every_loss
@pytest.mark.parametrize(
    "student",
    [
        features(6, 4, dtype=torch.float32) * 1e4,
        torch.zeros(6, 4),
        torch.full((6, 4), 3.0),
        features(6, 4, dtype=torch.float32)[[0, 0, 1, 1, 2, 3]],  # pairs that coincide
        torch.cat([torch.zeros(2, 4), features(4, 4, dtype=torch.float32)]),
        1 + 1e-6 * features(6, 4, dtype=torch.float32),
    ],
    ids=["large", "zero", "constant", "twins", "some zero", "nearly equal"],
)
def test_extreme_features_give_finite_losses_and_gradients(name, student):
    teacher = features(6, 5, seed=1, dtype=torch.float32)
    for s, t in ((student, teacher), (teacher, student)):
        loss, gradient = loss_and_gradient(name, s, t)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_samples_that_coincide_get_ordinary_gradients_from_rkd():
    """torch's own normalisation would multiply them by 1e12."""
    twins = features(6, 4)[[0, 0, 1, 1, 2, 3]]
    _, gradient = loss_and_gradient("rkd", twins, features(6, 5, seed=1))
    assert 1e-3 < gradient.abs().max() < 1e3


def test_rkd_measures_small_distances_in_float32():
    """Norms minus inner products would lose them: the squared distance is 1e-6, the squared norms 1e4."""
    student = torch.tensor([[100.0, 0.0], [100.0, 1e-3], [101.0, 0.0]])
    teacher = features(3, 2, seed=1)
    close(L.rkd_parts(student, teacher.float())[0].double(), L.rkd_parts(student.double(), teacher)[0], 1e-5)


def test_rkds_parts_are_distances_and_angles_of_all_pairs_and_triples():
    student, teacher = features(5, 4), features(5, 3, seed=1)

    def relations(x):
        pairs = torch.tensor([[(a - b).norm() for b in x] for a in x]).double()
        cosines = torch.zeros(5, 5, 5).double()
        for i, j, k in torch.cartesian_prod(*[torch.arange(5)] * 3).tolist():
            if i not in (j, k):
                cosines[i, j, k] = F.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0)
        return pairs / (pairs.sum() / 20), cosines

    distance, angle = L.rkd_parts(student, teacher)
    for part, s, t in zip((distance, angle), relations(student), relations(teacher), strict=True):
        close(part, F.smooth_l1_loss(s, t), 1e-6)
    close(L.rkd_loss(student, teacher, distance_weight=3.0, angle_weight=0.5), 3 * distance + 0.5 * angle)


def test_unit_vectors_have_norm_one_or_are_too_short():
    vectors = features(4, 3)
    vectors[2], vectors[3] = 0, 1e-13
    unit = L.unit_vectors(vectors)
    close(unit[:2], F.normalize(vectors[:2]))
    assert torch.equal(unit[2:], vectors[2:])
