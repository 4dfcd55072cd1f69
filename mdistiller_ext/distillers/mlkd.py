"""MLKD: Multi-level Logit Distillation. Jin, Wang and Lin, CVPR 2023,
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import MLKDRule, mlkd_parts
from ..registry import register_distiller
from .base import Distiller, Weight
from .outputs import Batch, Output
from .progress import Progress, warm_up

Pair = tuple[Output, Output]


@register_distiller("MLKD")
class MLKD(Distiller):
    """``ce_weight * (CE(weak) + CE(strong)) + kd_weight * (instance + batch + class)``; see :func:`mlkd_parts`.

    The instance level, KD's loss at five temperatures, is split into its target and non-target parts. The relations of the
    batch level and of the class level, and the medians of ``official``, are those of the whole batch.

    Args:
        alpha, beta: DKD's weights of the target and the non-target part, for the rule ``deepkd`` only.
        warmup: epochs in which both grow linearly, for the rule ``deepkd`` only.
        temperature: the first temperature, that of mdistiller's KD; the others are 3, 5, 2 and 6.
        standardize: standardise the logits of the instance level per sample (LSKD, CVPR 2024).
        rule: ``official``, the loss of the authors' code, with which the published accuracies of MLKD, also those of LSKD, were
            reached; ``paper``: all levels at all temperatures for both views; or ``deepkd``, the loss of the DeepKD release
            with its trainer, in which the batch and the class level belong to the task. The text of the paper was not
            available; the masks, the missing terms and the weak logits in sums for the strong view are known from the code.
    """

    views = ("weak", "strong")

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = 4.0,
        ce_weight: Weight = 0.1,
        kd_weight: Weight = 0.9,
        alpha: Weight = 1.0,
        beta: Weight = 8.0,
        warmup: int = 20,
        standardize: bool = False,
        rule: MLKDRule = "official",
    ) -> None:
        super().__init__(student, teacher)
        if rule not in ("official", "paper", "deepkd"):
            raise ConfigError(f"MLKD.RULE must be official, paper or deepkd, not '{rule}'")
        self.temperature = temperature
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.alpha = alpha
        self.beta = beta
        self.warmup = warmup
        self.standardize = standardize
        self.rule = rule

    def losses(self, student: Pair, teacher: Pair, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        s, t = ((weak.logits, strong.logits) for weak, strong in (student, teacher))
        target, nontarget, by_sample, by_class = mlkd_parts(
            s,
            t,
            batch.labels,
            temperature=self.temperature,
            rule=self.rule,
            standardized=self.standardize,
            whole=((self.whole_batch(s[0]), self.whole_batch(s[1])), (self.whole_batch(t[0]), self.whole_batch(t[1]))),
        )
        level = "kd"
        if self.rule == "deepkd":
            level, weight = "task", warm_up(progress, self.warmup)
            target, nontarget = weight * self.alpha * target, weight * self.beta * nontarget
        return {
            "task/ce": self.ce_weight * (F.cross_entropy(s[0], batch.labels) + F.cross_entropy(s[1], batch.labels)),
            "target/tckd": self.kd_weight * target,
            "nontarget/nckd": self.kd_weight * nontarget,
            f"{level}/batch": self.kd_weight * by_sample,
            f"{level}/class": self.kd_weight * by_class,
        }
