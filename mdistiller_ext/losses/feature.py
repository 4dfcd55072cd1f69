"""Losses on feature maps ``[N, C, H, W]``: AT, NST, VID, KDSVD, OFD and ReviewKD. Conventions: :mod:`mdistiller_ext.losses`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SVDRule = Literal["paper", "mdistiller"]

# ---- sizes --------------------------------------------------------------------------------------------------------


def mean_pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average maps ``[N, C, H, W]`` over windows to ``[N, C, *size]``, as adaptive average pooling does.

    Sizes that divide use plain average pooling: the same numbers, and a gradient that is deterministic on a GPU.
    """
    height, width = maps.shape[-2:]
    if (height, width) == size:
        return maps
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(maps, (height // size[0], width // size[1]))
    return F.adaptive_avg_pool2d(maps, size)


def pool_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average the larger of two maps to the size of the smaller, each dimension by itself."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return mean_pool(student, size), mean_pool(teacher, size)


# ---- AT -----------------------------------------------------------------------------------------------------------


def at_loss(student: Tensor, teacher: Tensor, *, p: int = 2) -> Tensor:
    """Compute the mean squared difference of attention maps (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928).

    An attention map is the mean of ``|F|^p`` over channels, divided by its L2 norm over the image. The larger of two feature
    maps is averaged to the size of the smaller. As in the authors' code and mdistiller, the loss is the mean of squares over
    images and positions; the paper writes the norm of the difference.

    Args:
        student, teacher: maps ``[N, C, H, W]``, of any channels and sizes.
        p: power, at least 1.
    """
    s, t = (_attention(maps, p) for maps in pool_to_smaller(student, teacher))
    return (s - t).square().mean()


def _attention(maps: Tensor, p: int) -> Tensor:
    return F.normalize(maps.abs().pow(p).mean(dim=1).flatten(1))


# ---- NST ----------------------------------------------------------------------------------------------------------


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared maximum mean discrepancy of channels (Huang and Wang, 2017, arXiv 1707.01219).

    Each channel, flattened and L2-normalised over the image, is a sample; the kernel is ``<a, b>^2``. The larger of two maps is
    averaged to the size of the smaller. The teacher's own term is a constant that makes the loss 0 for equal features.

    Args:
        student, teacher: maps ``[N, C, H, W]``, of any channels and sizes.
    """
    s, t = (F.normalize(maps.flatten(2), dim=2) for maps in pool_to_smaller(student, teacher))
    return _kernel_mean(t, t) + _kernel_mean(s, s) - 2 * _kernel_mean(s, t)


def _kernel_mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean of ``<a_i, b_j>^2`` over images and pairs of channels, of ``[N, C_a, P]`` and ``[N, C_b, P]``."""
    pairs = a.shape[1] * b.shape[1]
    if a.shape[2] ** 2 < pairs:  # the same sum by pairs of positions, which are fewer
        return (a.mT @ a * (b.mT @ b)).sum(dim=(1, 2)).mean() / pairs
    return (a @ b.mT).square().mean()


# ---- VID ----------------------------------------------------------------------------------------------------------


def vid_loss(mean: Tensor, log_scale: Tensor, teacher: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Compute the negative log-likelihood of the teacher's map under a Gaussian (Ahn et al., CVPR 2019, arXiv 1904.05835).

    The variance of a channel is ``softplus(log_scale) + eps``. The constant ``log(2 pi) / 2`` is left out, and the loss is the
    mean over images, channels and positions; it may be negative.

    Args:
        mean: predicted from the student's map, ``[N, C, H, W]``.
        log_scale: ``[C]``.
        teacher: ``[N, C, H, W]``.
        eps: least variance.
    """
    variance = (F.softplus(log_scale) + eps)[:, None, None]
    return 0.5 * ((mean - teacher).square() / variance + variance.log()).mean()


# ---- KDSVD --------------------------------------------------------------------------------------------------------


def kdsvd_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], *, k: int = 1, rule: SVDRule = "paper") -> Tensor:
    """Compute the difference of relations between the singular vectors of consecutive maps (Lee et al., ECCV 2018).

    Each of the teacher's first k right singular vectors of a map is paired with the one of the student's first k + 3 that has
    the largest absolute cosine to it, with that cosine's sign. Both are multiplied by the teacher's first k singular values,
    normalised to norm 1. The relation of consecutive maps is ``exp(-(a_i - b_j)^2 / 8)`` of the entries of their vectors a and
    b; the loss is the sum of squared differences of relations, averaged over the batch.

    Relations depend on the signs of the teacher's vectors, which are those that :func:`torch.linalg.svd` returns.

    Args:
        student, teacher: two or more maps ``[N, C, H, W]`` each.
        k: number of the teacher's vectors, at most the number of rows and of columns of each matrix.
        rule: the matrix of an image. ``paper``: a row for each position and a column for each channel, so paired maps must have
            equally many channels. ``mdistiller``: a row for each channel and row of the image and a column for each of its
            columns, so paired maps must have equal widths.

    Raises:
        ValueError: for an unknown rule.
    """
    if rule not in ("paper", "mdistiller"):
        raise ValueError(f"unknown rule '{rule}'. Known: paper, mdistiller")
    loss = student[0].new_zeros(())
    previous: tuple[Tensor, Tensor] | None = None
    for s_map, t_map in zip(student, teacher, strict=True):
        scale, t = _right_singular_vectors(_as_matrix(t_map, rule), k)
        _, s = _right_singular_vectors(_as_matrix(s_map, rule), k + 3)
        scale = F.normalize(scale, dim=1)[:, None]
        s, t = _aligned(s, t) * scale, t * scale
        if previous is not None:
            s_relation, t_relation = (_relation(now, then) for now, then in zip((s, t), previous, strict=True))
            loss = loss + (s_relation - t_relation).square().sum() / len(s)
        previous = s, t
    return loss


def _as_matrix(maps: Tensor, rule: SVDRule) -> Tensor:
    return maps.flatten(2).transpose(1, 2) if rule == "paper" else maps.flatten(1, 2)


def _right_singular_vectors(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest singular values ``[N, k]``, constants, and right singular vectors ``[N, n, k]`` of matrices ``[N, m, n]``.

    torch's gradient of the SVD divides by the differences of all singular values, so it is NaN where two are equal, such as
    those of two dead channels. The gradient here is that of the eigenvectors of A'A, for the k vectors in use only. A
    difference that rounds to zero, where the vector is not a function of the matrix, contributes no gradient.
    """
    with torch.no_grad():
        # Non-finite maps stay non-finite through the gradient term below; the SVD raises an error for them.
        _, values, vectors = torch.linalg.svd(matrix.nan_to_num(0.0, 0.0, 0.0), full_matrices=False)
        vectors = vectors.mT
        first = vectors[:, :, :k]
        squares = values.square()
        gaps = squares[:, None, :k] - squares[:, :, None]  # [N, r, k]
        least = max(matrix.shape[1:]) * torch.finfo(values.dtype).eps * squares[:, :1, None]
        inverse_gaps = torch.where(gaps.abs() > least, 1 / gaps, 0.0)
        inverse_squares = torch.where(squares[:, None, :k] > least, 1 / squares[:, None, :k], 0.0)
    product = matrix.mT @ (matrix @ first)
    change = product - product.detach()  # zero, with the gradient of A'A times the vectors
    inside = vectors.mT @ change
    outside = change - vectors @ inside
    return values[:, :k], first + vectors @ (inverse_gaps * inside) + outside * inverse_squares


def _aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's vector closest to each of the teacher's ``[N, n, k]``, with its sign."""
    cosine = (student.mT @ teacher).detach()
    best = cosine.abs().argmax(dim=1, keepdim=True)
    signs = cosine.gather(1, best).sign()
    return student.gather(2, best.expand(-1, student.shape[1], -1)) * signs


def _relation(now: Tensor, then: Tensor) -> Tensor:
    """``exp(-(a_i - b_j)^2 / 8)`` of vectors ``[N, n, k]`` and ``[N, m, k]``: ``[N, n, m, k]``."""
    return torch.exp(-(now[:, :, None] - then[:, None]).square() / 8)


# ---- OFD ----------------------------------------------------------------------------------------------------------


def negative_mean(mean: Tensor, std: Tensor) -> Tensor:
    """Compute OFD's margin, the mean of the negative values of a Gaussian (Heo et al., ICCV 2019, arXiv 1904.01866).

    With z = mean / std, ``E[x | x < 0] = mean - std * phi(z) / Phi(-z)``. Where at most 0.1 % of the values are negative, the
    margin is ``-3 std``, as in the authors' code. A channel without variance has the margin min(mean, 0).

    Args:
        mean, std: ``[C]``, as the bias and the weight of a batch norm give them; the sign of ``std`` is ignored.

    Returns:
        ``[C]``, none of them positive.
    """
    std = std.abs()
    z = mean / std.clamp(min=torch.finfo(std.dtype).tiny)
    negative = torch.special.ndtr(-z)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(negative > 0.001, mean - std * density / negative, -3 * std)


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Compute OFD's partial L2 distance to the teacher's map after a margin ReLU (ICCV 2019, arXiv 1904.01866).

    The target is ``max(teacher, margin)``. A position whose target is not positive counts only where the student is above it.
    Squares are summed over channels and positions, and averaged over images.

    Args:
        student, teacher: maps before their ReLU, ``[N, C, H, W]``.
        margin: ``[C]``, not positive.
    """
    target = torch.maximum(teacher, margin[:, None, None])
    counts = (student > target) | (target > 0)
    return torch.where(counts, student - target, 0.0).square().flatten(1).sum(dim=1).mean()


# ---- ReviewKD -----------------------------------------------------------------------------------------------------


def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the hierarchical context loss of two maps (Chen et al., CVPR 2021, arXiv 2104.09044).

    The mean squared differences of the maps and of their averages to 4x4, 2x2 and 1x1, weighted by 1, 1/2, 1/4 and 1/8 and
    divided by the sum of the weights. A level that is not smaller than the map is skipped, and the weights move up.

    Args:
        student, teacher: maps ``[N, C, H, W]``.
    """
    losses = [F.mse_loss(student, teacher)]
    for size in (4, 2, 1):
        if size < min(student.shape[2:]):
            losses.append(F.mse_loss(mean_pool(student, (size, size)), mean_pool(teacher, (size, size))))
    weights = [0.5**level for level in range(len(losses))]
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)
