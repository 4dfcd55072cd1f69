"""GDKD3: GDKD with three groups of classes, proposed for transformers. https://arxiv.org/abs/2512.04625"""

from __future__ import annotations

from torch import Tensor, nn

from ..losses import gdkd3_parts
from ..registry import register_distiller
from .base import Weight
from .gdkd import GDKD


@register_distiller("GDKD3")
class GDKD3(GDKD):
    """GDKD with the groups {top-1}, {top-2..k} and {rest}; ``w1`` weights the middle group."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        w0: Weight = 1.0,
        w1: Weight = 1.0,
        w2: Weight = 8.0,
        topk: int = 4,
        t: float = 4.0,
        warmup: int = 20,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            student,
            teacher,
            ce_weight=ce_weight,
            w0=w0,
            w1=w1,
            w2=w2,
            topk=topk,
            t=t,
            warmup=warmup,
            standardize=standardize,
        )

    def parts(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return gdkd3_parts(student, teacher, topk=self.topk, temperature=self.t)
