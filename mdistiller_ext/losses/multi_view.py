"""Losses on the predictions for two views of each image, weakly and strongly augmented: MLKD and CRLD.

Conventions: :mod:`mdistiller_ext.losses`. ``student`` and ``teacher`` are pairs of logits ``[N, C]``: weak view, strong view.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .logit import Scalar, non_target_mass, soften, standardize, tckd_nckd

Views = tuple[Tensor, Tensor]
MLKDRule = Literal["official", "paper", "deepkd"]
CRLDRule = Literal["paper", "deepkd"]

MLKD_TEMPERATURES = (3.0, 5.0, 2.0, 6.0)
"""MLKD's temperatures besides that of KD"""


def kd_parts(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: Scalar, weighted: bool = True
) -> tuple[Tensor, Tensor]:
    """Split ``T^2 KL(teacher || student)`` into its target part and its non-target part, per sample.

    They are TCKD and (1 - p_t) NCKD (Zhao et al., CVPR 2022, equation 6); their sum is exactly the KL.

    Args:
        student, teacher: logits ``[N, C]``.
        labels: class indices ``[N]``.
        temperature: T.
        weighted: if False, leave out the factor 1 - p_t, as DKD does.

    Returns:
        ``(target, nontarget)``, each ``[N]``.
    """
    tckd, nckd = tckd_nckd(student, teacher, labels, temperature=temperature)
    return tckd, non_target_mass(teacher, labels, temperature=temperature) * nckd if weighted else nckd


# ---- MLKD ---------------------------------------------------------------------------------------------------------


def gram_losses(student: Tensor, teacher: Tensor, *, temperature: Scalar) -> tuple[Tensor, Tensor]:
    """Compute MLKD's batch-level and class-level losses.

    Sums of squared differences between the Gram matrices of the softened predictions: ``P P^T`` ``[N, N]``, divided by N, and
    ``P^T P`` ``[C, C]``, divided by C. There is no factor T^2.

    Returns:
        ``(batch, class)``, scalars.
    """
    s, t = (logits.softmax(dim=1) for logits in soften(student, teacher, temperature))
    by_sample, by_class = t @ t.T - s @ s.T, t.T @ t - s.T @ s
    return by_sample.square().sum() / len(t), by_class.square().sum() / t.shape[1]


def _share_below_median(confidence: Tensor) -> Tensor:
    return (confidence <= confidence.quantile(0.5)).to(confidence.dtype).mean()


def mlkd_parts(
    student: Views,
    teacher: Views,
    labels: Tensor,
    *,
    temperature: Scalar,
    rule: MLKDRule = "official",
    standardized: bool = False,
    whole: tuple[Views, Views] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the parts of multi-level logit distillation (Jin, Wang and Lin, CVPR 2023), sums over five temperatures.

    The instance level is KD's loss, the levels of the batch and of the classes are :func:`gram_losses`; T is in turn
    ``temperature``, 3, 5, 2 and 6.

    By ``rule``, of the instance level, and of the batch and class level:

    - ``official``: m KL of the weak view at all T, KL of the strong view at the first three T and of the weak view at the
      others; m batch and m_c class of the weak view.
    - ``paper``: KL of both views at all T; batch and class of both views.
    - ``deepkd``: m KL of the weak view and KL of the strong view at all T, their non-target parts without the factor 1 - p_t;
      batch and class as ``official``.

    ``official`` is what the authors' code computes, and so the published numbers. There, m is the share of samples whose
    largest teacher probability is at most the batch's median, and m_c the share of classes whose summed probability is at most
    the median of the classes: both are about 1/2, since the masks multiply losses that are already averaged. The sums for
    the strong view use the logits of the weak view at T = 2 and 6; the strong view's batch and class levels are not added.
    ``deepkd`` is what DeepKD's release computes with its trainer, up to DKD's weights of the two parts.

    Args:
        student, teacher: pairs of logits ``[N, C]``.
        labels: class indices ``[N]``.
        temperature: the first T.
        standardized: standardise the logits per sample at the instance level (LSKD).
        whole: student's and teacher's pairs of logits for all samples of the batch, if those above are some of them.

    Returns:
        ``(target, nontarget, batch, class)``, scalars; the first two are the instance level, split by :func:`kd_parts`.

    Raises:
        ValueError: for an unknown rule.
    """
    if rule not in ("official", "paper", "deepkd"):
        raise ValueError(f"unknown MLKD rule '{rule}'. Known: official, paper, deepkd")
    temperatures = (temperature, *MLKD_TEMPERATURES)
    all_student, all_teacher = whole or (student, teacher)
    one = teacher[0].new_ones(())
    # Weights of the instance level by view and temperature; by view, those of the batch and the class level.
    instance_weights, relation_weights = [[one] * 5, [one] * 5], [(one, one), (one, one)]
    if rule != "paper":
        predictions = all_teacher[0].softmax(dim=1)
        share = _share_below_median(predictions.amax(dim=1))
        instance_weights = [[share] * 3 + [share + 1] * 2, [one] * 3] if rule == "official" else [[share] * 5, [one] * 5]
        relation_weights = [(share, _share_below_median(predictions.sum(dim=0)))]

    parts, levels = [], []
    for s, t, by_temperature in zip(student, teacher, instance_weights, strict=True):
        s, t = (standardize(s), standardize(t)) if standardized else (s, t)
        for at, weight in zip(temperatures, by_temperature, strict=False):
            split = kd_parts(s, t, labels, temperature=at, weighted=rule != "deepkd")
            parts.append([weight * part.mean() for part in split])
    for s, t, weights in zip(all_student, all_teacher, relation_weights, strict=False):
        for at in temperatures:
            level = gram_losses(s, t, temperature=at)
            levels.append([weight * loss for weight, loss in zip(weights, level, strict=True)])
    target, nontarget = (torch.stack(values).sum() for values in zip(*parts, strict=True))
    batch, classes = (torch.stack(values).sum() for values in zip(*levels, strict=True))
    return target, nontarget, batch, classes


# ---- CRLD ---------------------------------------------------------------------------------------------------------


def crld_parts(
    student: Views,
    teacher: Views,
    labels: Tensor,
    *,
    temperature: Scalar,
    tau_w: float,
    tau_s: float,
    rule: CRLDRule = "paper",
    whole: Views | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute CRLD's within-view and cross-view consistency losses (Zhang et al., ACM Multimedia 2024).

    Within: KL of the weak views and of the strong views. Cross: KL of the student's strong view to the teacher's weak view, and
    of the student's weak view to the teacher's strong view. A sample counts within views if the teacher's largest probability
    (at T = 1) for its weak view is at least ``tau_w``, and across views if that for its strong view is at least ``tau_s``;
    the means are over all samples.

    Args:
        student, teacher: pairs of logits ``[N, C]``.
        labels: class indices ``[N]``.
        temperature: T.
        rule: ``paper``, or ``deepkd`` for what DeepKD's release computes with its trainer, up to DKD's weights of the two
            parts: the share of samples that count multiplies the mean over all, and the non-target parts lack the factor
            1 - p_t.
        whole: the teacher's pair of logits for all samples of the batch, if those above are some of them.

    Returns:
        ``(target_within, nontarget_within, target_cross, nontarget_cross)``, scalars; those of a kind are the two parts of
        :func:`kd_parts`.

    Raises:
        ValueError: for an unknown rule.
    """
    if rule not in ("paper", "deepkd"):
        raise ValueError(f"unknown CRLD rule '{rule}'. Known: paper, deepkd")
    within = zip(student, teacher, strict=True)
    cross = zip(student, reversed(teacher), strict=True)
    losses = []
    for pairs, view, tau in ((within, 0, tau_w), (cross, 1, tau_s)):
        judged = teacher if rule == "paper" or whole is None else whole
        counts = (judged[view].softmax(dim=1).amax(dim=1) >= tau).to(judged[view].dtype)
        parts = [kd_parts(s, t, labels, temperature=temperature, weighted=rule == "paper") for s, t in pairs]
        weight = counts if rule == "paper" else counts.mean()
        losses += [((first + second) * weight).mean() for first, second in zip(*parts, strict=True)]
    return losses[0], losses[1], losses[2], losses[3]
