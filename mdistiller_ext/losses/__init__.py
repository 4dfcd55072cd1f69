"""Distillation losses as pure functions on logits and feature maps.

Conventions, shared by all functions:

- ``student`` and ``teacher`` are raw logits ``[N, C]`` (N samples, C classes), ``labels`` are class indices ``[N]``, masks
  are bool ``[N, C]``. In :mod:`.feature`, ``student`` and ``teacher`` are feature maps ``[N, C, H, W]``.
- Gradients flow to every input that requires them. Pass a detached teacher.
- Losses include the factor T^2 (Hinton et al., 2015) and are averaged over the batch, unless documented as
  *per sample*.
- ``temperature`` is a number or a 0-d tensor. ValueError is raised unless a number is positive; the value of a tensor is not
  checked, since that would synchronise the device.

All divergences are computed from log-probabilities. They and their gradients are finite for float32 logits of 1e4 and far
beyond, where formulas that use ``log(softmax(z))`` or mask by adding -1000 overflow to inf or NaN. The functions do not depend
on configuration, modules, devices or epochs.
"""

from .attention import cat_loss
from .contrast import contrast_scores, draw_contrast, hashed_integers, moved_entries, nce_loss
from .feature import (
    SVDRule,
    at_loss,
    hcl_loss,
    kdsvd_loss,
    mean_pool,
    negative_mean,
    nst_loss,
    ofd_loss,
    pool_to_smaller,
    vid_loss,
)
from .logit import (
    KLType,
    Scalar,
    dkd_loss,
    gdkd3_loss,
    gdkd3_parts,
    gdkd_loss,
    gdkd_parts,
    kd_loss,
    non_target_mass,
    partition_kl,
    standardize,
    tckd_nckd,
    top_k_mask,
)
from .multi_view import CRLDRule, MLKDRule, Views, crld_parts, gram_losses, kd_parts, mlkd_parts
from .power import ttm_loss, ttm_parts, wttm_loss
from .relation import Correlation, PRKDVariant, dist_loss, dist_parts, pearson_distance, prkd_loss, prkd_parts
from .sample_relation import pkt_loss, rkd_loss, rkd_parts, sp_loss, unit_vectors

__all__ = [
    "CRLDRule",
    "Correlation",
    "KLType",
    "MLKDRule",
    "PRKDVariant",
    "SVDRule",
    "Scalar",
    "Views",
    "at_loss",
    "cat_loss",
    "contrast_scores",
    "crld_parts",
    "dist_loss",
    "dist_parts",
    "dkd_loss",
    "draw_contrast",
    "gdkd3_loss",
    "gdkd3_parts",
    "gdkd_loss",
    "gdkd_parts",
    "gram_losses",
    "hashed_integers",
    "hcl_loss",
    "kd_loss",
    "kd_parts",
    "kdsvd_loss",
    "mean_pool",
    "mlkd_parts",
    "moved_entries",
    "nce_loss",
    "negative_mean",
    "non_target_mass",
    "nst_loss",
    "ofd_loss",
    "partition_kl",
    "pearson_distance",
    "pkt_loss",
    "pool_to_smaller",
    "prkd_loss",
    "prkd_parts",
    "rkd_loss",
    "rkd_parts",
    "sp_loss",
    "standardize",
    "tckd_nckd",
    "top_k_mask",
    "ttm_loss",
    "ttm_parts",
    "unit_vectors",
    "vid_loss",
    "wttm_loss",
]
