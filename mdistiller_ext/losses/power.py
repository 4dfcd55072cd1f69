"""Losses that match a power-transformed teacher at temperature 1: TTM and WTTM. Conventions: :mod:`mdistiller_ext.losses`."""

from __future__ import annotations

from torch import Tensor

from .logit import Scalar, _kl


def ttm_parts(student: Tensor, teacher: Tensor, *, gamma: Scalar) -> tuple[Tensor, Tensor]:
    """Compute TTM's divergence and WTTM's weight, per sample (Zheng and Yang, ICLR 2024, arXiv 2402.11148).

    The target is the teacher's distribution p raised to the power gamma and renormalised, which is a temperature of 1 / gamma
    for the teacher alone; the student has temperature 1, so there is no factor T^2.

    Args:
        student, teacher: logits ``[N, C]``.
        gamma: exponent, positive; below 1 it smooths the teacher's distribution.

    Returns:
        ``(kl, power_sum)``, each ``[N]``: KL(target || student) and U = sum of p^gamma over the classes, which is 1 for
        gamma = 1 and, for gamma below 1, between 1 (a certain teacher) and C^(1 - gamma) (a uniform one).

    Raises:
        ValueError: unless ``gamma`` is positive.
    """
    if not isinstance(gamma, Tensor) and not gamma > 0:
        raise ValueError(f"gamma must be positive, not {gamma}")
    log_power = gamma * teacher.log_softmax(dim=1)
    return _kl(log_power.log_softmax(dim=1), student.log_softmax(dim=1)), log_power.logsumexp(dim=1).exp()


def ttm_loss(student: Tensor, teacher: Tensor, *, gamma: Scalar) -> Tensor:
    """Compute TTM's loss, the mean of the divergences of :func:`ttm_parts`."""
    return ttm_parts(student, teacher, gamma=gamma)[0].mean()


def wttm_loss(student: Tensor, teacher: Tensor, *, gamma: Scalar) -> Tensor:
    """Compute WTTM's loss, the mean over samples of ``power_sum * kl`` of :func:`ttm_parts`."""
    kl, power_sum = ttm_parts(student, teacher, gamma=gamma)
    return (power_sum * kl).mean()
