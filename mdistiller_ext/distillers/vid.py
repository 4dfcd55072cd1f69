"""VID: Variational Information Distillation for Knowledge Transfer. Ahn et al., CVPR 2019, https://arxiv.org/abs/1904.05835"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import pool_to_smaller, vid_loss
from ..registry import register_distiller
from .base import Distiller, Weight
from .maps import stage_pairs
from .outputs import Batch, Output
from .progress import Progress

Rule = Literal["paper", "mdistiller"]


@register_distiller("VID")
class VID(Distiller):
    """``ce_weight * CE + feat_weight * sum of vid_loss`` over the stages, ``feats`` without the stem.

    Three 1x1 convolutions predict the mean of the teacher's map from the student's, the larger of both being averaged to the
    size of the smaller. The variance of a channel is a parameter.

    Args:
        init_pred_var: initial variance.
        eps: least variance.
        rule: ``paper``: variances are trained with the other parameters, as in RepDistiller, whose results are published.
            ``mdistiller``: they keep their initial value, since mdistiller does not give them to its optimizer; the loss is
            then a mean squared error divided by ``2 * init_pred_var``, plus a constant.

    Raises ConfigError unless ``init_pred_var > eps >= 0``.
    """

    config_keys: ClassVar[dict[str, str]] = {"ce_weight": "LOSS.CE_WEIGHT", "feat_weight": "LOSS.FEAT_WEIGHT"}
    regressors: nn.ModuleList

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        feat_weight: Weight = 1.0,
        init_pred_var: float = 5.0,
        eps: float = 1e-5,
        rule: Rule = "paper",
    ) -> None:
        super().__init__(student, teacher)
        if rule not in ("paper", "mdistiller"):
            raise ConfigError(f"VID.RULE must be paper or mdistiller, not '{rule}'")
        if not init_pred_var > eps >= 0:
            raise ConfigError(f"VID needs INIT_PRED_VAR > EPS >= 0, not {init_pred_var} and {eps}")
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight
        self.init_pred_var = init_pred_var
        self.eps = eps
        self.rule = rule

    def setup(self, student: Output, teacher: Output) -> None:
        # The inverse of softplus; for a large x, expm1(x) would overflow.
        x = self.init_pred_var - self.eps
        log_scale = x + math.log(-math.expm1(-x))
        self.regressors = nn.ModuleList(
            Regressor(s.shape[1], t.new_full(t.shape[1:2], log_scale), trained=self.rule == "paper")
            for s, t in stage_pairs(student, teacher)
        )

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        losses = []
        for module, pair in zip(self.regressors, stage_pairs(student, teacher), strict=True):
            regressor = cast(Regressor, module)
            s, t = pool_to_smaller(*pair)
            losses.append(vid_loss(regressor(s), regressor.log_scale, t, eps=self.eps))
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/vid": self.feat_weight * torch.stack(losses).sum(),
        }


class Regressor(nn.Sequential):
    """Gaussian of the teacher's map given the student's: predicts the mean, and holds ``log_scale`` ``[C]`` of the variance."""

    log_scale: Tensor

    def __init__(self, in_channels: int, log_scale: Tensor, *, trained: bool) -> None:
        channels = len(log_scale)
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=1, bias=False),
        )
        if trained:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)
