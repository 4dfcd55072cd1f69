"""TTM and WTTM.

``golden/power.npz``: random logits, and loss and gradient of the modules of github.com/zkxufo/TTM with exponent 0.3.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from tests.support.golden import golden
from tests.support.logits import CLASSES, close, random_logits

LOSSES = {"ttm": L.ttm_loss, "wttm": L.wttm_loss}
every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_loss_and_gradient_equal_the_authors(name):
    arrays = golden("power")
    student = arrays["student"].requires_grad_()
    loss = LOSSES[name](student, arrays["teacher"], gamma=0.3)
    close(loss.detach(), arrays[f"{name}/loss"], 1e-10)
    close(torch.autograd.grad(loss, student)[0], arrays[f"{name}/gradient"], 1e-10)


@every_loss
def test_gradients_are_those_of_finite_differences(name):
    student, teacher, _ = random_logits(samples=3, classes=4)
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, teacher, gamma=0.4), student.requires_grad_())


@every_loss
def test_exponent_one_is_kd_at_temperature_one(name):
    student, teacher, _ = random_logits()
    close(LOSSES[name](student, teacher, gamma=1.0), L.kd_loss(student, teacher, temperature=1.0))


@every_loss
@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_a_student_with_the_scaled_logits_of_the_teacher_costs_nothing(name, gamma):
    _, teacher, _ = random_logits()
    student = (gamma * teacher + 3).requires_grad_()
    loss = LOSSES[name](student, teacher, gamma=gamma)
    close(loss.detach(), torch.zeros_like(loss), 1e-12)
    close(torch.autograd.grad(loss, student)[0], torch.zeros_like(student), 1e-12)


@every_loss
def test_shifts_of_a_samples_logits_do_not_matter(name):
    student, teacher, _ = random_logits()
    shift = torch.arange(len(student), dtype=torch.float64)[:, None]
    close(LOSSES[name](student + shift, teacher - 5 * shift, gamma=0.2), LOSSES[name](student, teacher, gamma=0.2), 1e-11)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_the_power_sum_weighs_unsure_samples_most(gamma):
    student = torch.zeros(3, CLASSES, dtype=torch.float64)
    teacher = torch.zeros(3, CLASSES, dtype=torch.float64)
    teacher[0, 0], teacher[1, 0] = 1e4, 2.0
    kl, power_sum = L.ttm_parts(student, teacher, gamma=gamma)
    assert power_sum[0].item() == pytest.approx(1)
    assert power_sum[2].item() == pytest.approx(CLASSES ** (1 - gamma))
    assert power_sum[0] < power_sum[1] < power_sum[2]
    close(L.wttm_loss(student, teacher, gamma=gamma), (power_sum * kl).mean())


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(name, scale):
    student, teacher, _ = random_logits(dtype=torch.float32)
    for s, t in ((scale * student, teacher), (student, scale * teacher), (scale * student, scale * teacher)):
        s = s.clone().requires_grad_()
        loss = LOSSES[name](s, t, gamma=0.1)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, s)[0].isfinite().all()


@every_loss
@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_an_exponent_that_is_not_positive_is_refused(name, gamma):
    student, teacher, _ = random_logits()
    with pytest.raises(ValueError, match=f"gamma must be positive, not {gamma}"):
        LOSSES[name](student, teacher, gamma=gamma)
    close(LOSSES[name](student, teacher, gamma=torch.tensor(0.5).double()), LOSSES[name](student, teacher, gamma=0.5))


def test_ttm_is_the_cross_entropy_with_the_softened_teacher_less_its_entropy():
    student, teacher, _ = random_logits()
    target = (teacher / 10).softmax(1)
    entropy = -(target * target.log()).sum(1).mean()
    close(L.ttm_loss(student, teacher, gamma=0.1), F.cross_entropy(student, target) - entropy)
