"""Losses on logits: exact identities of the decoupled losses, and the top-k mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from tests.support.logits import CLASSES, SAMPLES, close, kl_of_kept_classes, kl_rows, random_logits, random_mask


def target_mask(labels, classes=CLASSES):
    return F.one_hot(labels, classes).bool()


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


def test_top_k_mask_of_tied_logits_is_the_same_for_a_number_and_a_tensor():
    logits, labels = torch.zeros(4, 10), torch.arange(4)
    assert torch.equal(L.top_k_mask(logits, labels, 3), L.top_k_mask(logits, labels, torch.tensor(3)))
