"""The contrastive loss of CRD: noise-contrastive estimation against a memory of all training samples."""

from __future__ import annotations

import torch
from torch import Tensor

from .sample_relation import unit_vectors


def contrast_scores(anchors: Tensor, memory: Tensor, contrast: Tensor, *, temperature: float) -> Tensor:
    """Compute ``exp(<anchor, memory entry> / T)`` of each anchor with its own choice of entries: ``[N, K + 1]``.

    Multiplies the anchors with the whole memory and then selects: N x M numbers (13 MB in float32 for N = 64 and the
    M = 50,000 images of CIFAR-100, 1.3 GB for N = 256 and ImageNet), where selecting first would take N x (K + 1) x D
    (537 MB and 2.1 GB for K = 16,384 and D = 128).

    Args:
        anchors: ``[N, D]``.
        memory: ``[M, D]``.
        contrast: positions in the memory, int64 ``[N, K + 1]``.
    """
    return ((anchors @ memory.T).gather(1, contrast) / temperature).exp()


def nce_loss(scores: Tensor, samples: int) -> Tensor:
    """Compute CRD's noise-contrastive loss (Tian, Krishnan and Isola, ICLR 2020, arXiv 1910.10699, equation 18).

    The posterior that an entry is the positive one rather than one of K draws from ``samples`` equally likely ones is
    ``P / (P + K / samples)``, to whose denominator the official code adds 1e-7. The loss is the mean over anchors of the *sum*
    over their K + 1 entries of the negative log-likelihood.

    Args:
        scores: normalised scores P ``[N, K + 1]``; column 0 holds the positives.
        samples: number of training samples.
    """
    noise = (scores.shape[1] - 1) / samples
    denominator = scores + (noise + 1e-7)
    positive = (scores[:, 0] / denominator[:, 0]).log()
    negative = (noise / denominator[:, 1:]).log().sum(dim=1)
    return -(positive + negative).mean()


def moved_entries(memory: Tensor, index: Tensor, vectors: Tensor, *, momentum: float) -> Tensor:
    """Compute the entries ``index`` of the memory, moved towards ``vectors`` and normalised: ``[N, D]``.

    Args:
        memory: ``[M, D]``.
        index: int64 ``[N]``.
        vectors: ``[N, D]``.
        momentum: share of the old entries.
    """
    return unit_vectors(momentum * memory[index] + (1 - momentum) * vectors)


# ---- choice of the entries ----------------------------------------------------------------------------------------

# Multipliers and shifts of the SplitMix64 generator (Steele, Lea and Flood, OOPSLA 2014), as signed 64-bit numbers.
_INCREMENT, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Logical shift; that of int64 tensors repeats the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _FIRST
    bits = (bits ^ _shift_right(bits, 27)) * _SECOND
    return bits ^ _shift_right(bits, 31)


def hashed_integers(seed: Tensor, step: Tensor, index: Tensor, count: int) -> Tensor:
    """Pseudo-random integers in [0, 2^63) that depend on seed, step, sample and column alone: int64 ``[N, count]``.

    Unlike those of a generator, they do not depend on the device, the number of ranks or what was drawn before, and need no
    state in a CUDA graph.

    Args:
        seed, step: int64, 0-d.
        index: int64 ``[N]``.
    """
    key = _mix(_mix(_mix(seed + _INCREMENT) + step * _INCREMENT) + (index + 1) * _INCREMENT)
    columns = torch.arange(1, count + 1, device=index.device)
    return _shift_right(_mix(key[:, None] + columns * _INCREMENT), 1)


def draw_contrast(
    bits: Tensor, index: Tensor, labels: Tensor, order: Tensor, counts: Tensor, *, relaxed: bool = False
) -> Tensor:
    """Choose a positive and K negatives for each sample: positions in the training set, int64 ``[N, K + 1]``.

    Negatives are independent and uniform over the samples of other classes.

    Args:
        bits: random integers in [0, 2^63), int64 ``[N, K + 1]``; uniform, so remainders are, to 1e-12 for 8 million
            samples.
        index, labels: the samples' positions in the training set and classes, int64 ``[N]``.
        order: positions of all training samples, sorted by class, int64 ``[M]``.
        counts: number of samples of each class, int64 ``[C]``; at least two classes have samples.
        relaxed: draw the positive from all samples of the class (upstream's mode ``relax``) instead of the sample itself.
    """
    own = counts[labels][:, None]
    start = (counts.cumsum(0) - counts)[labels][:, None]
    place = bits[:, 1:] % (len(order) - own)
    negatives = order[place + own * (place >= start)]
    positives = order[start + bits[:, :1] % own.clamp(min=1)] if relaxed else index[:, None]
    return torch.cat([positives, negatives], dim=1)
