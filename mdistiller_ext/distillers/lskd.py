"""LSKD: Logit Standardization in Knowledge Distillation. Sun et al., CVPR 2024, https://arxiv.org/abs/2403.01427

KD on standardised logits, with the name, settings and defaults of GDKD's configuration files. KD, DKD, GDKD, GDKD3 and DEEPKD
have the same standardisation as their setting STANDARDIZE.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ..registry import register_distiller
from .base import Weight
from .kd import KD


@register_distiller("LSKD")
class LSKD(KD):
    """``ce_weight * CE + kd_weight * T^2 KL(teacher || student)`` on logits with mean 0 and standard deviation 1 per sample."""

    config_keys: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = 2.0,
        ce_weight: Weight = 0.1,
        kd_weight: Weight = 9.0,
    ) -> None:
        super().__init__(student, teacher, temperature=temperature, ce_weight=ce_weight, kd_weight=kd_weight, standardize=True)
