"""The formula book: distillation losses as pure functions on logits.

Shapes: logits ``[N, C]`` (N samples, C classes), labels ``[N]``, masks bool ``[N, C]``. ``student`` and ``teacher`` are raw
logits; gradients flow to whatever requires them, so pass a detached teacher. Every loss carries its T^2 factor (Hinton et
al., 2015) and is a mean over the batch unless it says *per sample*. Temperatures may be numbers or 0-d tensors.

All of it works on log-probabilities: finite, with finite gradients, for logits of 1e4 in fp32 and far beyond, where formulas
that take ``log(softmax(z))`` or mask by adding -1000 overflow to inf or NaN. Nothing here knows about configuration, modules,
devices or epochs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scalar = float | Tensor
KLType = Literal["forward", "reverse", "both"]
PRKDVariant = Literal["prkd_a", "prkd_b", "prkd"]
Correlation = Literal["inter", "inter+intra"]


# ---- primitives ---------------------------------------------------------------------------------------------------


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) per sample ``[N]`` of finite log-probabilities ``[N, K]``."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def _log_masses(logits: Tensor, groups: list[Tensor]) -> Tensor:
    """Log-probability of each group of classes ``[N, G]``; ``groups`` are masks that partition the classes."""
    masses = torch.stack([logits.masked_fill(~group, -torch.inf).logsumexp(dim=1) for group in groups], dim=1)
    # An empty group has mass 0: the lowest finite number keeps 0 * (log 0 - log 0) at 0 instead of NaN.
    return masses.clamp(min=torch.finfo(logits.dtype).min).log_softmax(dim=1)


def _log_softmax_within(logits: Tensor, group: Tensor) -> Tensor:
    """Log-probabilities renormalised over the classes of ``group``; 0 outside it, so that they cancel in a difference."""
    return logits.masked_fill(~group, -torch.inf).log_softmax(dim=1).masked_fill(~group, 0.0)


def _kl_between(student: Tensor, teacher: Tensor, groups: list[Tensor]) -> Tensor:
    """KL of the distributions over groups, per sample ``[N]``, logits already divided by T."""
    return _kl(_log_masses(teacher, groups), _log_masses(student, groups))


def _kl_within(student: Tensor, teacher: Tensor, group: Tensor, kl_type: KLType = "forward") -> Tensor:
    """KL of the distributions renormalised inside ``group``, per sample ``[N]``, logits already divided by T."""
    log_p, log_q = _log_softmax_within(teacher, group), _log_softmax_within(student, group)
    if kl_type == "forward":
        return _kl(log_p, log_q)
    if kl_type == "reverse":
        return _kl(log_q, log_p)
    if kl_type == "both":
        return 0.5 * (_kl(log_p, log_q) + _kl(log_q, log_p))
    raise ValueError(f"unknown kl_type '{kl_type}'. Known: forward, reverse, both")


def _soften(student: Tensor, teacher: Tensor, temperature: Scalar) -> tuple[Tensor, Tensor]:
    """Both logits divided by T. Raises ValueError unless a number T is positive (a tensor's value is not looked at)."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    return student / temperature, teacher / temperature


def _target_mask(logits: Tensor, labels: Tensor) -> Tensor:
    """True at each sample's own class ``[N, C]``."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)


def partition_kl(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: Scalar, kl_type: KLType = "forward"
) -> tuple[Tensor, Tensor, Tensor]:
    """Split KL(teacher || student) by a mask into (binary, inside, outside), per sample ``[N]``, each times T^2.

    binary compares the masses inside and outside the mask; inside and outside compare the distributions renormalised in
    each part. With m the teacher's mass inside, ``KL = binary + m * inside + (1 - m) * outside`` exactly. ``kl_type`` turns
    the two leaves around (GDKD's KL_TYPE); binary is always forward.
    """
    s, t = _soften(student, teacher, temperature)
    parts = (_kl_between(s, t, [mask, ~mask]), _kl_within(s, t, mask, kl_type), _kl_within(s, t, ~mask, kl_type))
    square = temperature**2
    return parts[0] * square, parts[1] * square, parts[2] * square


def pearson_distance(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """``1 - Pearson correlation`` of a and b along ``dim`` (DIST, NeurIPS 2022, eq. 6).

    As in the official code, 1e-8 is added to the product of the norms: a vector without variance is at distance 1.
    """
    a = a - a.mean(dim=dim, keepdim=True)
    b = b - b.mean(dim=dim, keepdim=True)
    return 1 - (a * b).sum(dim=dim) / (a.norm(dim=dim) * b.norm(dim=dim) + 1e-8)


def standardize(logits: Tensor) -> Tensor:
    """Z-score of each sample's logits ``[N, C]`` (logit standardisation, CVPR 2024): unbiased std plus 1e-7."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (1e-7 + logits.std(dim=1, keepdim=True))


def top_k_mask(teacher: Tensor, labels: Tensor, k: int | Tensor) -> Tensor:
    """True at the k largest *non-target* classes of the teacher ``[N, C]`` (DeepKD's mask M_i).

    Exactly k classes a sample also where logits tie; k of C - 1 or more keeps every non-target class. A 0-d tensor k stays on
    its device, so k can change without a synchronisation. Differs from the DeepKD release, which ranks the target too.
    """
    classes = teacher.shape[1]
    ranked = teacher.masked_fill(_target_mask(teacher, labels), -torch.inf)
    if isinstance(k, Tensor) and k.device.type == "cpu":
        k = int(k)  # costs nothing there, and finding one value is quicker than sorting all
    if isinstance(k, Tensor):
        k = k.clamp(max=classes - 1)
        place = (k.long() - 1).clamp(min=0).expand(len(ranked), 1)
        least = ranked.sort(dim=1, descending=True).values.gather(1, place)
    else:
        k = min(k, classes - 1)
        least = ranked.kthvalue(classes - max(k, 1) + 1, dim=1, keepdim=True).values
    above, equal = ranked > least, ranked == least
    # Of classes that tie for the last places, the first ones.
    return above | (equal & (equal.cumsum(dim=1) <= k - above.sum(dim=1, keepdim=True)))


# ---- KD and DKD ---------------------------------------------------------------------------------------------------


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: Scalar) -> Tensor:
    """Hinton's KD: T^2 KL(teacher || student) of the softened predictions (2015, arXiv 1503.02531)."""
    s, t = _soften(student, teacher, temperature)
    return _kl(t.log_softmax(dim=1), s.log_softmax(dim=1)).mean() * temperature**2


def tckd_nckd(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: Scalar, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """DKD's target-class and non-target-class parts, per sample ``([N], [N])`` (CVPR 2022, eq. 5).

    Args:
        keep: bool ``[N, C]``, the non-target classes that stay in the non-target part, which is renormalised over them;
            all of them by default. The target-class part always sees every class.
    """
    target = _target_mask(teacher, labels)
    s, t = _soften(student, teacher, temperature)
    others = ~target if keep is None else keep & ~target
    square = temperature**2
    return _kl_between(s, t, [target, ~target]) * square, _kl_within(s, t, others) * square


def non_target_mass(teacher: Tensor, labels: Tensor, *, temperature: Scalar) -> Tensor:
    """``1 - p_t``, the softened teacher's probability of all classes but the target, per sample ``[N]``.

    KD is ``TCKD + (1 - p_t) NCKD`` per sample. Computed in log space: exact where p_t rounds to 1.
    """
    target = _target_mask(teacher, labels)
    return _log_masses(teacher / temperature, [target, ~target])[:, 1].exp()


def dkd_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: Scalar) -> Tensor:
    """DKD: ``alpha * TCKD + beta * NCKD`` (CVPR 2022, eq. 7)."""
    tckd, nckd = tckd_nckd(student, teacher, labels, temperature=temperature)
    return (alpha * tckd + beta * nckd).mean()


# ---- GDKD ---------------------------------------------------------------------------------------------------------


def _top_classes(teacher: Tensor, k: int) -> Tensor:
    """True at the teacher's k largest classes ``[N, C]``; the label plays no part (GDKD)."""
    return torch.zeros_like(teacher, dtype=torch.bool).scatter_(1, teacher.topk(k, dim=1).indices, True)


def _check_topk(topk: int, lowest: int, classes: int) -> None:
    if not lowest <= topk < classes:
        raise ValueError(f"topk must be in [{lowest}, {classes - 1}] for {classes} classes, not {topk}")


def gdkd_parts(
    student: Tensor, teacher: Tensor, *, topk: int, temperature: Scalar, kl_type: KLType = "forward"
) -> tuple[Tensor, Tensor, Tensor]:
    """GDKD's (high, top, rest), batch means: partition_kl at the teacher's ``topk`` classes, 1 <= topk < C (ValueError)."""
    _check_topk(topk, 1, teacher.shape[1])
    high, top, rest = partition_kl(student, teacher, _top_classes(teacher, topk), temperature, kl_type)
    return high.mean(), top.mean(), rest.mean()


def gdkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    w0: float,
    w1: float,
    w2: float,
    topk: int,
    temperature: Scalar,
    kl_type: KLType = "forward",
) -> Tensor:
    """GDKD: ``w0 * high + w1 * top + w2 * rest`` (Zheng and Cheng, arXiv 2512.04625)."""
    high, top, rest = gdkd_parts(student, teacher, topk=topk, temperature=temperature, kl_type=kl_type)
    return w0 * high + w1 * top + w2 * rest


def gdkd3_parts(student: Tensor, teacher: Tensor, *, topk: int, temperature: Scalar) -> tuple[Tensor, Tensor, Tensor]:
    """GDKD3's (high, top, rest), batch means, for the groups {top-1}, {top-2..k}, {rest}; 2 <= topk < C (ValueError)."""
    _check_topk(topk, 2, teacher.shape[1])
    s, t = _soften(student, teacher, temperature)
    first, top = _top_classes(teacher, 1), _top_classes(teacher, topk)
    middle = top & ~first
    square = temperature**2
    return (
        _kl_between(s, t, [first, middle, ~top]).mean() * square,
        _kl_within(s, t, middle).mean() * square,
        _kl_within(s, t, ~top).mean() * square,
    )


def gdkd3_loss(student: Tensor, teacher: Tensor, *, w0: float, w1: float, w2: float, topk: int, temperature: Scalar) -> Tensor:
    """GDKD3: ``w0 * high + w1 * top + w2 * rest`` over three groups (arXiv 2512.04625)."""
    high, top, rest = gdkd3_parts(student, teacher, topk=topk, temperature=temperature)
    return w0 * high + w1 * top + w2 * rest


# ---- DIST and PRKD ------------------------------------------------------------------------------------------------


def dist_parts(student: Tensor, teacher: Tensor, *, temperature: Scalar) -> tuple[Tensor, Tensor]:
    """DIST's (inter, intra): Pearson distances of the predictions by row and by column, each times T^2.

    A batch of one has no relation between samples: its intra part is 0 (the official formula gives a constant 1 there,
    also without gradient).
    """
    s, t = (logits.softmax(dim=1) for logits in _soften(student, teacher, temperature))
    square = temperature**2
    inter = pearson_distance(s, t, dim=1).mean() * square
    intra = pearson_distance(s, t, dim=0).mean() * square if len(s) > 1 else (s * 0).sum()
    return inter, intra


def dist_loss(student: Tensor, teacher: Tensor, *, beta: float, gamma: float, temperature: Scalar) -> Tensor:
    """DIST: ``beta * inter + gamma * intra`` (NeurIPS 2022, eq. 10, with the release's T^2 factor)."""
    inter, intra = dist_parts(student, teacher, temperature=temperature)
    return beta * inter + gamma * intra


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
    """PRKD's (KL, correlation) parts with their weights of the moment applied (IJCNN 2024).

    With ``T(e) = T - (T - T_final) * fraction``: variant ``prkd_a`` is KL at T(e) alone; ``prkd_b`` fades
    ``(1 - fraction) * KL + fraction * Cor`` at the fixed T; ``prkd`` is b with its KL at T(e).

    The paper's text was not available: what it leaves open is an option here. ``correlation``: Cor is the Pearson
    distance by row (``inter``) or DIST's sum of both (``inter+intra``). ``t_squared``: both terms carry T^2, as KD and DIST
    do, so that fraction 0 is kd_loss and fraction 1 is dist_loss.

    Args:
        fraction: training progress e / E in [0, 1].
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
    """PRKD: the sum of prkd_parts, which see."""
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
