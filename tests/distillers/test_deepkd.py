"""DeepKD's formula, and the number of classes that it keeps by epoch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from mdistiller_ext.distillers import Progress
from mdistiller_ext.distillers.deepkd import dynamic_k
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import CLASSES, close, cross_entropy, losses_of, make_distiller, make_logits, sum_of


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


@pytest.mark.parametrize("phase_ends", [(), (60,), (180, 60), (0, 60), (-5, 60), (60, 120, 180)])
def test_phase_ends_that_are_not_two_rising_epochs_are_refused(phase_ends):
    with pytest.raises(ConfigError, match=r"DEEPKD\.PHASE_ENDS must be two epochs in rising order"):
        make_distiller("DEEPKD", phase_ends=phase_ends)
