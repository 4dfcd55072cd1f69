"""DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer. Huang et al., 2025,
https://arxiv.org/abs/2505.15133

The losses of DeepKD, with its dynamic top-k mask (DTM); the momenta are set by the ``deepkd`` trainer. The released code has
no schedule for K and, for KD, no mask. Phase ends and K_static are not given in the available sources: the defaults
are this project's (the only K in the release's settings is 500, for ImageNet's 1,000 classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import non_target_mass, tckd_nckd, top_k_mask
from ..registry import register_distiller
from .base import Distiller, Output, Weight, paired_logits
from .progress import Progress, epoch_of, warm_up


def dynamic_k(progress: Progress, classes: int, *, initial: float, static: int, phase_ends: Sequence[int]) -> Tensor:
    """K, the number of non-target classes kept in this epoch: a 0-d tensor on the device of ``progress``.

    Easy phase: linear from ``initial`` (a fraction of the classes) in epoch 1 to ``static`` (a number of classes) in epoch
    ``phase_ends[0]``. Transition phase: ``static``, until epoch ``phase_ends[1]``. Hard phase: linear to all C - 1 non-target
    classes in the last epoch. Phases after the last epoch of the run are not reached. The initial K is at least 2, since a
    single class has no distribution to learn, and at most ``static``.
    """
    easy_end, transition_end = phase_ends
    most = classes - 1
    middle = min(static, most)
    low = min(max(round(initial * classes), 2), middle)
    epoch = epoch_of(progress)
    easy = (epoch - 1) / max(easy_end - 1, 1)
    hard = (epoch - transition_end) / max(progress.epochs - transition_end, 1)
    k = torch.lerp(torch.full_like(easy, low), torch.full_like(easy, middle), easy.clamp(0, 1))
    return torch.lerp(k, torch.full_like(k, most), hard.clamp(0, 1)).round()


@register_distiller("DEEPKD")
class DeepKD(Distiller):
    """The two parts of DKD or KD, the non-target part restricted to the K classes with the largest teacher logits.

    Args:
        weighting: ``dkd``: ``warm_up * (alpha * TCKD + beta * NCKD)``; ``kd``: ``kd_weight * (TCKD + (1 - p_t) NCKD)``.
        warmup: epochs, for ``dkd`` only.
        dtm: apply the dynamic top-k mask; see :func:`dynamic_k`.
        k_initial: K in the first epoch, as a fraction of the classes.
        k_static: K between the phase ends, in classes.
        phase_ends: last epoch of the easy phase and of the transition.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        weighting: Literal["dkd", "kd"] = "dkd",
        alpha: Weight = 1.0,
        beta: Weight = 8.0,
        kd_weight: Weight = 1.0,
        t: float = 4.0,
        warmup: int = 20,
        dtm: bool = True,
        k_initial: float = 0.05,
        k_static: int = 50,
        phase_ends: Sequence[int] = (60, 180),
        standardize: bool = False,
    ) -> None:
        super().__init__(student, teacher)
        if weighting not in ("dkd", "kd"):
            raise ConfigError(f"DEEPKD.WEIGHTING must be dkd or kd, not '{weighting}'")
        if len(phase_ends) != 2 or not 1 <= phase_ends[0] <= phase_ends[1]:
            raise ConfigError(f"DEEPKD.PHASE_ENDS must be two epochs in rising order, not {list(phase_ends)}")
        if not 0 < k_initial <= 1 or k_static < 1:
            raise ConfigError(f"DEEPKD.K_INITIAL must be in (0, 1] and K_STATIC at least 1, not {k_initial} and {k_static}")
        self.ce_weight = ce_weight
        self.weighting = weighting
        self.alpha = alpha
        self.beta = beta
        self.kd_weight = kd_weight
        self.t = t
        self.warmup = warmup
        self.dtm = dtm
        self.k_initial = k_initial
        self.k_static = k_static
        self.phase_ends = phase_ends
        self.standardize = standardize

    def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
        s, t = paired_logits(student, teacher, standardized=self.standardize)
        keep = None
        if self.dtm:
            classes = t.shape[1]
            k = dynamic_k(progress, classes, initial=self.k_initial, static=self.k_static, phase_ends=self.phase_ends)
            keep = top_k_mask(t, labels, k)
        tckd, nckd = tckd_nckd(s, t, labels, temperature=self.t, keep=keep)
        if self.weighting == "dkd":
            weight = warm_up(progress, self.warmup)
            target, nontarget = weight * self.alpha * tckd.mean(), weight * self.beta * nckd.mean()
        else:
            non_target = non_target_mass(t, labels, temperature=self.t)
            target, nontarget = self.kd_weight * tckd.mean(), self.kd_weight * (non_target * nckd).mean()
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, labels),
            "target/tckd": target,
            "nontarget/nckd": nontarget,
        }
