"""MLKD and CRLD.

``golden/multi_view.npz``: random logits of two views; the losses of MLKD (logit-standardization-KD; T = 4, and 2 with
standardised logits; weights 0.1 and 0.9) and CRLD (DeepKD; thresholds 0.75 and 0.6, and none) for them in float64, with the
gradient of their sum for each view; likewise those of both in the DeepKD release with its trainer (epoch 5 of a warm-up of
20, alpha 1.5, beta 2; MLKD's weights 0.5).
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from tests.support.golden import golden
from tests.support.logits import SAMPLES, close, kl_rows, random_logits

TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def views(seed=0, **options):
    """(student, teacher, labels) with two views each."""
    (weak, teacher_weak, labels), (strong, teacher_strong, _) = (random_logits(seed + i, **options) for i in (0, 50))
    return (weak, strong), (teacher_weak, teacher_strong), labels


def authors_views():
    arrays = golden("multi_view")
    student = tuple(arrays[f"student_{view}"].requires_grad_() for view in ("weak", "strong"))
    return arrays, student, tuple(arrays[f"teacher_{view}"] for view in ("weak", "strong")), arrays["labels"]


def check_gradients(loss, student, arrays, name):
    """Of the loss with both views' cross-entropy, which is part of the authors' sum."""
    for gradient, view in zip(torch.autograd.grad(loss, student), ("weak", "strong"), strict=True):
        close(gradient, arrays[f"{name}/gradient_{view}"], 1e-10)


# ---- MLKD ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "temperature"), [("mlkd", 4.0), ("mlkd_standardized", 2.0)])
def test_mlkd_by_the_official_rule_equals_the_authors(name, temperature):
    arrays, student, teacher, labels = authors_views()
    parts = L.mlkd_parts(student, teacher, labels, temperature=temperature, standardized=name != "mlkd")
    target, nontarget, batch, classes = parts
    for found, expected in ((target + nontarget, "kd"), (batch, "bc"), (classes, "cc")):
        close(0.9 * found.detach(), arrays[f"{name}/loss_{expected}"], 1e-10)
    task = 0.1 * sum(F.cross_entropy(logits, labels) for logits in student)
    check_gradients(task + 0.9 * sum(parts), student, arrays, name)


def test_mlkd_by_deepkds_rule_equals_its_release():
    arrays, student, teacher, labels = authors_views()
    parts = L.mlkd_parts(student, teacher, labels, temperature=4.0, rule="deepkd")
    target, nontarget, batch, classes = (0.5 * weight * part for weight, part in zip((0.375, 0.5, 1, 1), parts, strict=True))
    task = 0.5 * sum(F.cross_entropy(logits, labels) for logits in student) + batch + classes
    for found, expected in ((target, "tckd"), (nontarget, "nckd"), (task, "ce")):
        close(found.detach(), arrays[f"mlkd_deepkd/loss_{expected}"], 1e-10)
    check_gradients(task + target + nontarget, student, arrays, "mlkd_deepkd")


def test_mlkd_by_the_papers_rule_sums_all_levels_over_views_and_temperatures():
    student, teacher, labels = views()
    target, nontarget, batch, classes = L.mlkd_parts(student, teacher, labels, temperature=4.0, rule="paper")
    pairs = [(s, t, at) for s, t in zip(student, teacher, strict=True) for at in TEMPERATURES]
    close(target + nontarget, sum(kl_rows(s, t, at).mean() for s, t, at in pairs))
    levels = [L.gram_losses(s, t, temperature=at) for s, t, at in pairs]
    close(torch.stack([batch, classes]), torch.stack([torch.stack(level) for level in levels]).sum(0))


def test_gram_losses_compare_products_of_all_pairs_of_samples_and_of_classes():
    student, teacher, _ = random_logits()
    s, t = ((logits / 2).softmax(1) for logits in (student, teacher))
    batch, classes = L.gram_losses(student, teacher, temperature=2.0)
    close(batch, sum((t[i] @ t[j] - s[i] @ s[j]) ** 2 for i, j in itertools.product(range(SAMPLES), repeat=2)) / SAMPLES)
    count = s.shape[1]
    pairs = itertools.product(range(count), repeat=2)
    close(classes, sum((t[:, i] @ t[:, j] - s[:, i] @ s[:, j]) ** 2 for i, j in pairs) / count)


@pytest.mark.parametrize("rule", ["official", "paper", "deepkd"])
def test_ranks_take_their_own_samples_and_the_relations_of_all(rule):
    student, teacher, labels = views()
    everything = L.mlkd_parts(student, teacher, labels, temperature=4.0, rule=rule)
    shares = []
    for rows in (slice(0, 3), slice(3, None)):
        own = [tuple(logits[rows] for logits in pair) for pair in (student, teacher)]
        parts = L.mlkd_parts(*own, labels[rows], temperature=4.0, rule=rule, whole=(student, teacher))
        shares.append(torch.stack(parts) * len(labels[rows]) / len(labels))
    close(sum(shares), torch.stack(everything))


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown MLKD rule 'release'\. Known: official, paper, deepkd"):
        L.mlkd_parts(*views(), temperature=4.0, rule="release")
    with pytest.raises(ValueError, match=r"unknown CRLD rule 'release'\. Known: paper, deepkd"):
        L.crld_parts(*views(), temperature=4.0, tau_w=0.9, tau_s=0.2, rule="release")


# ---- CRLD ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tau_w", "tau_s"), [("crld", 0.75, 0.6), ("crld_all", 0.0, 0.0)])
def test_crld_equals_deepkds_release(name, tau_w, tau_s):
    arrays, student, teacher, labels = authors_views()
    parts = L.crld_parts(student, teacher, labels, temperature=4.0, tau_w=tau_w, tau_s=tau_s)
    kd = 2 * (parts[0] + parts[1]) + 0.5 * (parts[2] + parts[3])
    close(kd.detach(), arrays[f"{name}/loss_kd"], 1e-10)
    check_gradients(kd + sum(F.cross_entropy(logits, labels) for logits in student), student, arrays, name)


def test_crld_by_deepkds_rule_equals_its_release():
    arrays, student, teacher, labels = authors_views()
    parts = L.crld_parts(student, teacher, labels, temperature=4.0, tau_w=0.75, tau_s=0.6, rule="deepkd")
    target, nontarget = 0.375 * (2 * parts[0] + 0.5 * parts[2]), 0.5 * (2 * parts[1] + 0.5 * parts[3])
    task = sum(F.cross_entropy(logits, labels) for logits in student)
    for found, expected in ((target, "tckd"), (nontarget, "nckd"), (task, "ce")):
        close(found.detach(), arrays[f"crld_deepkd/loss_{expected}"], 1e-10)
    check_gradients(task + target + nontarget, student, arrays, "crld_deepkd")


@pytest.mark.parametrize("rule", ["paper", "deepkd"])
def test_ranks_share_crlds_share_of_confident_samples(rule):
    student, teacher, labels = views()
    options = {"temperature": 4.0, "tau_w": 0.8, "tau_s": 0.5, "rule": rule}
    everything = L.crld_parts(student, teacher, labels, **options)
    shares = []
    for rows in (slice(0, 3), slice(3, None)):
        own = [tuple(logits[rows] for logits in pair) for pair in (student, teacher)]
        parts = L.crld_parts(*own, labels[rows], whole=teacher, **options)
        shares.append(torch.stack(parts) * len(labels[rows]) / len(labels))
    close(sum(shares), torch.stack(everything))


def test_crld_relates_views_with_themselves_and_crosswise():
    (weak, strong), (teacher_weak, teacher_strong), labels = views()
    parts = L.crld_parts((weak, strong), (teacher_weak, teacher_strong), labels, temperature=4.0, tau_w=0.8, tau_s=0.0)
    sure = teacher_weak.softmax(1).amax(1) >= 0.8
    assert 0 < sure.sum() < SAMPLES
    within = kl_rows(weak, teacher_weak, 4.0) + kl_rows(strong, teacher_strong, 4.0)
    cross = kl_rows(strong, teacher_weak, 4.0) + kl_rows(weak, teacher_strong, 4.0)
    close(parts[0] + parts[1], within[sure].sum() / SAMPLES)
    close(parts[2] + parts[3], cross.mean())


def test_a_threshold_that_no_sample_reaches_leaves_nothing_and_no_gradient():
    student, teacher, labels = views()
    student[0].requires_grad_()
    parts = L.crld_parts(student, teacher, labels, temperature=4.0, tau_w=1.1, tau_s=1.1)
    assert [part.item() for part in parts] == [0.0] * 4
    assert (torch.autograd.grad(sum(parts), student[0])[0] == 0).all()


# ---- both ---------------------------------------------------------------------------------------------------------

BOTH = {
    "official": lambda *views: L.mlkd_parts(*views, temperature=4.0),
    "paper": lambda *views: L.mlkd_parts(*views, temperature=4.0, rule="paper"),
    "mlkd deepkd": lambda *views: L.mlkd_parts(*views, temperature=4.0, rule="deepkd"),
    "crld": lambda *views: L.crld_parts(*views, temperature=4.0, tau_w=0.5, tau_s=0.2),
    "crld deepkd": lambda *views: L.crld_parts(*views, temperature=4.0, tau_w=0.5, tau_s=0.2, rule="deepkd"),
}
every_loss = pytest.mark.parametrize("name", BOTH)


@every_loss
def test_gradients_are_those_of_finite_differences(name):
    student, teacher, labels = views(samples=4, classes=5)
    weak, strong = (logits.requires_grad_() for logits in student)
    assert torch.autograd.gradcheck(lambda a, b: sum(BOTH[name]((a, b), teacher, labels)), (weak, strong))


@every_loss
def test_equal_logits_cost_nothing(name):
    student, teacher, labels = views()
    same = (teacher[0], teacher[0])
    close(torch.stack(BOTH[name](same, same, labels)), torch.zeros(4).double(), 1e-12)
    assert all(part > 1e-4 for part in BOTH[name](student, teacher, labels))


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(name, scale):
    student, teacher, labels = views(dtype=torch.float32)
    for s_scale, t_scale in ((scale, 1.0), (1.0, scale), (scale, scale)):
        s = tuple((s_scale * logits).requires_grad_() for logits in student)
        loss = sum(BOTH[name](s, tuple(t_scale * logits for logits in teacher), labels))
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, s))


def test_kd_parts_add_up_to_kd():
    student, teacher, labels = random_logits()
    target, nontarget = L.kd_parts(student, teacher, labels, temperature=3.0)
    close(target + nontarget, kl_rows(student, teacher, 3.0))
    close(target, L.tckd_nckd(student, teacher, labels, temperature=3.0)[0])
