"""Losses on relations between the samples of a batch, from their features: RKD, SP and PKT.

``student`` and ``teacher`` are features ``[N, ...]`` of the same N samples, flattened per sample; their other dimensions may
differ. The losses are 0 if both are equal, and for a single sample, which has no relations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit_vectors(vectors: Tensor) -> Tensor:
    """Divide vectors along the last dimension by their Euclidean norm; those shorter than 1e-12 are left as they are.

    Unlike ``torch.nn.functional.normalize``, does not multiply the gradient of a zero vector by 1e12.
    """
    square = vectors.square().sum(dim=-1, keepdim=True)
    return vectors / square.masked_fill(square <= 1e-24, 1.0).sqrt()


# ---- RKD ----------------------------------------------------------------------------------------------------------


def _distances_and_cosines(features: Tensor, squared: bool, epsilon: float) -> tuple[Tensor, Tensor]:
    """Distances ``[N, N]`` divided by their mean, and cosines of the angles at each sample ``[N, N, N]``."""
    differences = features[None, :] - features[:, None]
    # From the differences, which the angles need in any case: norms minus inner products lose the digits of small distances.
    distances = differences.square().sum(dim=2).clamp(min=epsilon)
    if not squared:
        distances = distances.sqrt()
    distances = distances.masked_fill(torch.eye(len(features), dtype=torch.bool, device=features.device), 0.0)
    pairs = len(features) * (len(features) - 1)
    directions = unit_vectors(differences)
    return distances / (distances.sum() / pairs), directions @ directions.transpose(1, 2)


def rkd_parts(student: Tensor, teacher: Tensor, *, squared: bool = False, epsilon: float = 1e-12) -> tuple[Tensor, Tensor]:
    """Compute RKD's distance-wise and angle-wise losses (Park et al., CVPR 2019, arXiv 1904.05068, equations 5 and 8).

    Smooth L1 losses, averaged over all N^2 pairs and N^3 triples. Distances are divided by their mean over the pairs of
    different samples. Holds tensors of N^2 D and N^3 numbers (D features a sample): 4 MB and 1 MB each in float32 for N = 64
    and D = 256, 134 MB and 67 MB for N = 256 and D = 512.

    Args:
        student, teacher: features ``[N, ...]``.
        squared: compare squared distances.
        epsilon: lower bound of the squared distances, positive.

    Returns:
        ``(distance, angle)``, scalars.
    """
    if len(student) < 2:
        nothing = (student * 0).sum()
        return nothing, nothing
    distance_s, angle_s = _distances_and_cosines(student.flatten(1), squared, epsilon)
    distance_t, angle_t = _distances_and_cosines(teacher.flatten(1), squared, epsilon)
    return F.smooth_l1_loss(distance_s, distance_t), F.smooth_l1_loss(angle_s, angle_t)


def rkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    squared: bool = False,
    epsilon: float = 1e-12,
) -> Tensor:
    """Compute RKD's loss ``distance_weight * distance + angle_weight * angle`` of :func:`rkd_parts`."""
    distance, angle = rkd_parts(student, teacher, squared=squared, epsilon=epsilon)
    return distance_weight * distance + angle_weight * angle


# ---- SP and PKT ---------------------------------------------------------------------------------------------------


def _normalized_gram(features: Tensor) -> Tensor:
    """Inner products of all pairs of samples ``[N, N]``, rows of norm 1."""
    flat = features.flatten(1)
    return unit_vectors(flat @ flat.T)


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the similarity-preserving loss (Tung and Mori, ICCV 2019, arXiv 1907.09682, equation 4).

    The sum of squared differences between the row-normalised Gram matrices, divided by N^2.

    Args:
        student, teacher: features ``[N, ...]``.
    """
    return F.mse_loss(_normalized_gram(student), _normalized_gram(teacher))


def _affinities(features: Tensor) -> Tensor:
    """Cosine similarities of all pairs, mapped to [0, 1] and divided by their sum per row ``[N, N]``."""
    flat = features.flatten(1)
    unit = flat / (flat.norm(dim=1, keepdim=True) + 1e-7)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the loss of probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018, arXiv 1803.10837, equation 7).

    KL(teacher || student) of the conditional probabilities of samples given another, with the cosine kernel. As in the
    official code, 1e-7 is added to norms and probabilities, and the terms are *averaged* over the N^2 pairs; the KL itself is
    N^2 times the loss.

    Args:
        student, teacher: features ``[N, ...]``.
    """
    s, t = _affinities(student), _affinities(teacher)
    return (t * ((t + 1e-7) / (s + 1e-7)).log()).mean()
