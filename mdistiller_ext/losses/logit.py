"""Losses on the predictions of each sample: KD, DKD, GDKD and GDKD3. Conventions: :mod:`mdistiller_ext.losses`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scalar = float | Tensor
KLType = Literal["forward", "reverse", "both"]


# ---- primitives ---------------------------------------------------------------------------------------------------


def soften(student: Tensor, teacher: Tensor, temperature: Scalar) -> tuple[Tensor, Tensor]:
    """Divide both logits by the temperature. Raises ValueError unless a number is positive; tensors are not checked."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    return student / temperature, teacher / temperature


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) per sample ``[N]`` from finite log-probabilities ``[N, K]``."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def _log_masses(logits: Tensor, groups: list[Tensor]) -> Tensor:
    """Log-probability of each group of classes ``[N, G]``; ``groups`` are masks that partition the classes."""
    masses = torch.stack([logits.masked_fill(~group, -torch.inf).logsumexp(dim=1) for group in groups], dim=1)
    # An empty group has mass 0. The lowest finite number instead of -inf gives 0 * (log 0 - log 0) = 0 instead of NaN.
    return masses.clamp(min=torch.finfo(logits.dtype).min).log_softmax(dim=1)


def _log_softmax_within(logits: Tensor, group: Tensor) -> Tensor:
    """Log-softmax ``[N, C]`` over the classes of ``group``; 0 outside, where differences of two of them vanish."""
    return logits.masked_fill(~group, -torch.inf).log_softmax(dim=1).masked_fill(~group, 0.0)


def _kl_between(student: Tensor, teacher: Tensor, groups: list[Tensor]) -> Tensor:
    """KL of the probabilities of the groups, per sample ``[N]``; the logits are already divided by T."""
    return _kl(_log_masses(teacher, groups), _log_masses(student, groups))


def _kl_within(student: Tensor, teacher: Tensor, group: Tensor, kl_type: KLType = "forward") -> Tensor:
    """KL of the distributions renormalised over ``group``, per sample ``[N]``; the logits are already divided by T."""
    log_p, log_q = _log_softmax_within(teacher, group), _log_softmax_within(student, group)
    if kl_type == "forward":
        return _kl(log_p, log_q)
    if kl_type == "reverse":
        return _kl(log_q, log_p)
    if kl_type == "both":
        return 0.5 * (_kl(log_p, log_q) + _kl(log_q, log_p))
    raise ValueError(f"unknown kl_type '{kl_type}'. Known: forward, reverse, both")


def _target_mask(logits: Tensor, labels: Tensor) -> Tensor:
    """Mask ``[N, C]`` of each sample's own class."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)


def partition_kl(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: Scalar, kl_type: KLType = "forward"
) -> tuple[Tensor, Tensor, Tensor]:
    """Split KL(teacher || student) by a mask of classes into three divergences, per sample.

    ``binary`` compares the probabilities of the classes inside and outside the mask as two masses; ``inside`` and ``outside``
    compare the distributions renormalised over each part. With m the teacher's mass inside the mask,

        ``KL = binary + m * inside + (1 - m) * outside``

    holds exactly. DKD is the case in which the mask is the target class, GDKD that of the teacher's top k classes.

    Args:
        student, teacher: logits ``[N, C]``.
        mask: bool ``[N, C]``; rows may be all True or all False.
        temperature: T.
        kl_type: direction of ``inside`` and ``outside`` (GDKD's KL_TYPE): ``forward`` is KL(teacher || student), ``reverse``
            KL(student || teacher), ``both`` their mean. ``binary`` is always forward.

    Returns:
        ``(binary, inside, outside)``, each ``[N]`` and multiplied by T^2.

    Raises:
        ValueError: for an unknown ``kl_type``.
    """
    s, t = soften(student, teacher, temperature)
    parts = (_kl_between(s, t, [mask, ~mask]), _kl_within(s, t, mask, kl_type), _kl_within(s, t, ~mask, kl_type))
    square = temperature**2
    return parts[0] * square, parts[1] * square, parts[2] * square


def standardize(logits: Tensor) -> Tensor:
    """Standardise each sample's logits ``[N, C]`` to mean 0 and standard deviation 1.

    Logit standardisation (Sun et al., CVPR 2024, arXiv 2403.01427): the unbiased standard deviation, plus 1e-7.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (1e-7 + logits.std(dim=1, keepdim=True))


def top_k_mask(teacher: Tensor, labels: Tensor, k: int | Tensor) -> Tensor:
    """Compute the mask of the teacher's k largest *non-target* classes (DeepKD's dynamic top-k mask M_i, arXiv 2505.15133).

    Exactly k classes a sample are True; of classes with equal logits, those of lower index come first. Differs from DeepKD's
    release, which ranks the target class too.

    Args:
        teacher: logits ``[N, C]``.
        labels: class indices ``[N]``.
        k: number of classes; C - 1 or more keeps every non-target class. A 0-d tensor on an accelerator stays there, so that k
            can change without synchronising the device.

    Returns:
        bool ``[N, C]``.
    """
    classes = teacher.shape[1]
    ranked = teacher.masked_fill(_target_mask(teacher, labels), -torch.inf)
    if isinstance(k, Tensor) and k.device.type == "cpu":
        k = int(k)  # reading a CPU tensor does not synchronise, and kthvalue is faster than sort
    if isinstance(k, Tensor):
        k = k.clamp(max=classes - 1)
        place = (k.long() - 1).clamp(min=0).expand(len(ranked), 1)
        least = ranked.sort(dim=1, descending=True).values.gather(1, place)
    else:
        k = min(k, classes - 1)
        least = ranked.kthvalue(classes - max(k, 1) + 1, dim=1, keepdim=True).values
    above, equal = ranked > least, ranked == least
    # Fill the remaining places with the first of the classes that equal the k-th value.
    return above | (equal & (equal.cumsum(dim=1) <= k - above.sum(dim=1, keepdim=True)))


# ---- KD and DKD ---------------------------------------------------------------------------------------------------


def kd_loss(student: Tensor, teacher: Tensor, *, temperature: Scalar) -> Tensor:
    """Compute KD's loss ``T^2 KL(teacher || student)`` of the softened predictions (Hinton et al., 2015, arXiv 1503.02531).

    Args:
        student, teacher: logits ``[N, C]``.
        temperature: T.
    """
    s, t = soften(student, teacher, temperature)
    return _kl(t.log_softmax(dim=1), s.log_softmax(dim=1)).mean() * temperature**2


def tckd_nckd(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: Scalar, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the target-class and the non-target-class part of KD, per sample (Zhao et al., CVPR 2022, equation 5).

    Args:
        student, teacher: logits ``[N, C]``.
        labels: class indices ``[N]``.
        temperature: T.
        keep: bool ``[N, C]``, the non-target classes to which NCKD is restricted, with both distributions renormalised over
            them. Default: all non-target classes. TCKD always includes every class.

    Returns:
        ``(tckd, nckd)``, each ``[N]`` and multiplied by T^2.
    """
    target = _target_mask(teacher, labels)
    s, t = soften(student, teacher, temperature)
    others = ~target if keep is None else keep & ~target
    square = temperature**2
    return _kl_between(s, t, [target, ~target]) * square, _kl_within(s, t, others) * square


def non_target_mass(teacher: Tensor, labels: Tensor, *, temperature: Scalar) -> Tensor:
    """Compute ``1 - p_t``, the probability that the softened teacher gives to all non-target classes, per sample ``[N]``.

    It is the weight of NCKD in KD: ``KD = TCKD + (1 - p_t) NCKD`` holds per sample. Computed from log-probabilities, it is
    accurate also where p_t rounds to 1.
    """
    target = _target_mask(teacher, labels)
    return _log_masses(teacher / temperature, [target, ~target])[:, 1].exp()


def dkd_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: Scalar) -> Tensor:
    """Compute DKD's loss ``alpha * TCKD + beta * NCKD`` (CVPR 2022, equation 7) of :func:`tckd_nckd`."""
    tckd, nckd = tckd_nckd(student, teacher, labels, temperature=temperature)
    return (alpha * tckd + beta * nckd).mean()


# ---- GDKD ---------------------------------------------------------------------------------------------------------


def _top_classes(teacher: Tensor, k: int) -> Tensor:
    """Mask ``[N, C]`` of the teacher's k largest classes, the target class included (unlike :func:`top_k_mask`)."""
    return torch.zeros_like(teacher, dtype=torch.bool).scatter_(1, teacher.topk(k, dim=1).indices, True)


def _check_topk(topk: int, lowest: int, classes: int) -> None:
    if not lowest <= topk < classes:
        raise ValueError(f"topk must be in [{lowest}, {classes - 1}] for {classes} classes, not {topk}")


def gdkd_parts(
    student: Tensor, teacher: Tensor, *, topk: int, temperature: Scalar, kl_type: KLType = "forward"
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute GDKD's three parts, :func:`partition_kl` at the teacher's top classes (Zheng and Cheng, arXiv 2512.04625).

    Args:
        student, teacher: logits ``[N, C]``.
        topk: number of top classes; the labels are not used.
        temperature: T.
        kl_type: direction of ``top`` and ``rest``, as in :func:`partition_kl`.

    Returns:
        ``(high, top, rest)``, scalars.

    Raises:
        ValueError: unless ``1 <= topk < C``, and for an unknown ``kl_type``.
    """
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
    """Compute GDKD's loss ``w0 * high + w1 * top + w2 * rest`` of :func:`gdkd_parts`."""
    high, top, rest = gdkd_parts(student, teacher, topk=topk, temperature=temperature, kl_type=kl_type)
    return w0 * high + w1 * top + w2 * rest


def gdkd3_parts(student: Tensor, teacher: Tensor, *, topk: int, temperature: Scalar) -> tuple[Tensor, Tensor, Tensor]:
    """Compute GDKD3's three parts: the teacher's top class, the following ``topk - 1`` classes, and the rest are the groups.

    Args:
        student, teacher: logits ``[N, C]``.
        topk: number of classes in the first two groups.
        temperature: T.

    Returns:
        ``(high, top, rest)``, scalars: the divergence between the three groups, and those within the second and third.

    Raises:
        ValueError: unless ``2 <= topk < C``.
    """
    _check_topk(topk, 2, teacher.shape[1])
    s, t = soften(student, teacher, temperature)
    first, top = _top_classes(teacher, 1), _top_classes(teacher, topk)
    middle = top & ~first
    square = temperature**2
    return (
        _kl_between(s, t, [first, middle, ~top]).mean() * square,
        _kl_within(s, t, middle).mean() * square,
        _kl_within(s, t, ~top).mean() * square,
    )


def gdkd3_loss(student: Tensor, teacher: Tensor, *, w0: float, w1: float, w2: float, topk: int, temperature: Scalar) -> Tensor:
    """Compute GDKD3's loss ``w0 * high + w1 * top + w2 * rest`` of :func:`gdkd3_parts`."""
    high, top, rest = gdkd3_parts(student, teacher, topk=topk, temperature=temperature)
    return w0 * high + w1 * top + w2 * rest
