"""Losses on relations between classes and samples: DIST and PRKD. Conventions: :mod:`mdistiller_ext.losses`."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .logit import Scalar, kd_loss, soften

PRKDVariant = Literal["prkd_a", "prkd_b", "prkd"]
Correlation = Literal["inter", "inter+intra"]


def pearson_distance(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Compute ``1 - Pearson correlation`` of ``a`` and ``b`` along ``dim``, which is reduced.

    Equation 6 of DIST (Huang et al., NeurIPS 2022, arXiv 2205.10536). As in the official code, 1e-8 is added to the product of
    the norms, so the distance to a constant vector is 1.
    """
    a = a - a.mean(dim=dim, keepdim=True)
    b = b - b.mean(dim=dim, keepdim=True)
    return 1 - (a * b).sum(dim=dim) / (a.norm(dim=dim) * b.norm(dim=dim) + 1e-8)


# ---- DIST ---------------------------------------------------------------------------------------------------------


def dist_parts(student: Tensor, teacher: Tensor, *, temperature: Scalar) -> tuple[Tensor, Tensor]:
    """Compute DIST's inter-class and intra-class relation losses, each multiplied by T^2.

    The inter-class loss is the mean Pearson distance between the softened predictions of each sample (rows), the intra-class
    loss that between the predictions of each class over the batch (columns). For a batch of one sample, which has no relation
    between samples, the intra-class loss is 0; the official formula gives a constant 1, likewise without gradient.

    Args:
        student, teacher: logits ``[N, C]``.
        temperature: T.

    Returns:
        ``(inter, intra)``, scalars.
    """
    s, t = (logits.softmax(dim=1) for logits in soften(student, teacher, temperature))
    square = temperature**2
    inter = pearson_distance(s, t, dim=1).mean() * square
    intra = pearson_distance(s, t, dim=0).mean() * square if len(s) > 1 else (s * 0).sum()
    return inter, intra


def dist_loss(student: Tensor, teacher: Tensor, *, beta: float, gamma: float, temperature: Scalar) -> Tensor:
    """Compute DIST's loss ``beta * inter + gamma * intra`` (NeurIPS 2022, equation 10) of :func:`dist_parts`.

    The factor T^2 is that of the official code.
    """
    inter, intra = dist_parts(student, teacher, temperature=temperature)
    return beta * inter + gamma * intra


# ---- PRKD ---------------------------------------------------------------------------------------------------------


def prkd_parts(
    student: Tensor,
    teacher: Tensor,
    *,
    fraction: Scalar,
    temperature: Scalar,
    final_temperature: Scalar,
    variant: PRKDVariant = "prkd",
    correlation: Correlation = "inter",
    t_squared: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute PRKD's weighted KL and correlation losses (Gu, Jin and Li, IJCNN 2024).

    With ``T(e) = T - (T - T_final) * fraction``, :func:`kd_loss` KL and the correlation loss Cor, the latter always at T:

    | variant    | sum of both                                    |
    |------------|------------------------------------------------|
    | ``prkd_a`` | ``KL(T(e))``                                   |
    | ``prkd_b`` | ``(1 - fraction) * KL(T) + fraction * Cor``    |
    | ``prkd``   | ``(1 - fraction) * KL(T(e)) + fraction * Cor`` |

    The text of the paper was not available; what it leaves open is an argument (``correlation``, ``t_squared``).

    Args:
        student, teacher: logits ``[N, C]``.
        fraction: training progress e / E in [0, 1].
        temperature: T.
        final_temperature: T_final.
        variant: one of the table.
        correlation: Cor is the Pearson distance by row (``inter``), or DIST's sum of both distances (``inter+intra``).
        t_squared: multiply both losses by the square of their temperature, as KD and DIST do. Then the sum is :func:`kd_loss`
            at fraction 0 and, but for ``prkd_a``, :func:`dist_loss` (beta 1; gamma 0, or 1 with ``inter+intra``) at fraction 1.

    Returns:
        ``(kl, correlation)``, scalars, weights by ``fraction`` included.

    Raises:
        ValueError: for an unknown variant or correlation.
    """
    if variant not in ("prkd_a", "prkd_b", "prkd"):
        raise ValueError(f"unknown PRKD variant '{variant}'. Known: prkd_a, prkd_b, prkd")
    if correlation not in ("inter", "inter+intra"):
        raise ValueError(f"unknown correlation '{correlation}'. Known: inter, inter+intra")
    t = temperature if variant == "prkd_b" else temperature - (temperature - final_temperature) * fraction
    kl = kd_loss(student, teacher, temperature=t)
    inter, intra = dist_parts(student, teacher, temperature=temperature)
    cor = inter if correlation == "inter" else inter + intra
    if not t_squared:
        kl, cor = kl / t**2, cor / temperature**2
    if variant == "prkd_a":
        return kl, cor * 0
    return (1 - fraction) * kl, fraction * cor


def prkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    fraction: Scalar,
    temperature: Scalar,
    final_temperature: Scalar,
    variant: PRKDVariant = "prkd",
    correlation: Correlation = "inter",
    t_squared: bool = True,
) -> Tensor:
    """Compute PRKD's loss, the sum of both :func:`prkd_parts`, whose arguments it takes."""
    kl, cor = prkd_parts(
        student,
        teacher,
        fraction=fraction,
        temperature=temperature,
        final_temperature=final_temperature,
        variant=variant,
        correlation=correlation,
        t_squared=t_squared,
    )
    return kl + cor
