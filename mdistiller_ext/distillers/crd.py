"""CRD: Contrastive Representation Distillation. Tian, Krishnan and Isola, ICLR 2020, https://arxiv.org/abs/1910.10699"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import contrast_scores, draw_contrast, hashed_integers, moved_entries, nce_loss, unit_vectors
from ..registry import register_distiller
from .base import Distiller, Weight
from .outputs import Batch, Output
from .progress import Progress


@register_distiller("CRD")
class CRD(Distiller):
    """``ce_weight * CE + feat_weight * NCE``, the sum of the contrastive losses of student and teacher embeddings.

    Linear layers embed the pooled features of both networks. Two memories hold the last embeddings of every training image;
    an embedding of one network is contrasted with the other's memory, in which its own image is the positive and K images
    of other classes are negatives. Scores are divided by constants, which the first batch sets.

    Layers, memories (2 x images x ``dim`` numbers), constants and the state of the sampling are saved and resumed. With several
    processes all have the same memories and draw what a single one would.

    Differs from mdistiller's in the negatives: they are drawn on the device, with replacement, since the loss assumes
    independent draws. mdistiller draws them in its data workers, with replacement for ImageNet and without for CIFAR-100, and
    sends 8 MiB of positions with every batch of 64. An embedding of norm 0 stays 0 instead of becoming NaN. The networks'
    dimensions are not settings.

    Args:
        mode: the positive is the image itself (``exact``), or drawn from its class (``relax``).
        dim: size of the embeddings.
        k: number of negatives.
        momentum: share of the old entry when a memory is updated.

    Raises ConfigError for an invalid argument, and if all images have one class.
    """

    needs_index = True
    config_keys: ClassVar[dict[str, str]] = {
        "ce_weight": "LOSS.CE_WEIGHT",
        "feat_weight": "LOSS.FEAT_WEIGHT",
        "dim": "FEAT.DIM",
        "k": "NCE.K",
        "momentum": "NCE.MOMENTUM",
        "temperature": "NCE.TEMPERATURE",
    }
    embed_s: nn.Linear
    embed_t: nn.Linear
    memory_s: Tensor  # [images, dim], mdistiller's memory_v1
    memory_t: Tensor
    normalizers: Tensor  # Z of the student's and of the teacher's scores; -1 before the first batch
    seed: Tensor
    step: Tensor  # batches so far
    order: Tensor  # positions of the training images, sorted by class
    counts: Tensor  # images of each class

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        ce_weight: Weight = 1.0,
        feat_weight: Weight = 0.8,
        mode: Literal["exact", "relax"] = "exact",
        dim: int = 128,
        k: int = 16384,
        momentum: float = 0.5,
        temperature: float = 0.07,
    ) -> None:
        super().__init__(student, teacher)
        if mode not in ("exact", "relax"):
            raise ConfigError(f"CRD.MODE must be exact or relax, not '{mode}'")
        if dim < 1 or k < 1:
            raise ConfigError(f"CRD.FEAT.DIM and CRD.NCE.K must be at least 1, not {dim} and {k}")
        if not 0 <= momentum <= 1:
            raise ConfigError(f"CRD.NCE.MOMENTUM must be in [0, 1], not {momentum}")
        if not temperature > 0:
            raise ConfigError(f"CRD.NCE.TEMPERATURE must be positive, not {temperature}")
        self.ce_weight = ce_weight
        self.feat_weight = feat_weight
        self.mode = mode
        self.dim = dim
        self.k = k
        self.momentum = momentum
        self.temperature = temperature

    def setup(self, student: Output, teacher: Output) -> None:
        labels = self.train_labels
        assert labels is not None  # the base class has checked it
        self.embed_s, self.embed_t = (
            nn.Linear(output.features["pooled_feat"].flatten(1).shape[1], self.dim) for output in (student, teacher)
        )
        counts = labels.bincount(minlength=teacher.logits.shape[1])
        if int(counts.max()) == len(labels):
            raise ConfigError("CRD takes its negatives from other classes, and all training images have the same label")
        bound = (3 / self.dim) ** 0.5
        self.register_buffer("memory_s", torch.empty(len(labels), self.dim).uniform_(-bound, bound))
        self.register_buffer("memory_t", torch.empty(len(labels), self.dim).uniform_(-bound, bound))
        self.register_buffer("normalizers", torch.full((2,), -1.0))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)
        self.register_buffer("counts", counts, persistent=False)

    def losses(self, student: Output, teacher: Output, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert batch.index is not None
        bits = hashed_integers(self.seed, self.step, batch.index, self.k + 1)
        contrast = draw_contrast(bits, batch.index, batch.labels, self.order, self.counts, relaxed=self.mode == "relax")
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, batch.labels),
            "kd/nce": self.feat_weight * self.contrastive_loss(student, teacher, batch.index, contrast),
        }

    def contrastive_loss(self, student: Output, teacher: Output, index: Tensor, contrast: Tensor) -> Tensor:
        """The sum of both contrastive losses; in training mode, updates the memories and sets the constants.

        Args:
            index: positions of the images in the training set, int64 ``[N]``.
            contrast: those of their positives and negatives, int64 ``[N, K + 1]``.
        """
        own = unit_vectors(self.embed_s(student.features["pooled_feat"].flatten(1)))
        other = unit_vectors(self.embed_t(teacher.features["pooled_feat"].flatten(1)))
        # Copies of the memories, which change before the backward pass reads them.
        scores = [
            contrast_scores(anchors, memory.clone(), contrast, temperature=self.temperature)
            for anchors, memory in ((own, self.memory_t), (other, self.memory_s))
        ]
        samples = len(self.memory_s)
        means = self.whole_batch(torch.stack([score.detach().mean(dim=1) for score in scores], dim=1)).mean(dim=0)
        normalizers = torch.where(self.normalizers < 0, means * samples, self.normalizers)
        if self.training:
            self._update(own.detach(), other.detach(), index, normalizers)
        losses = [nce_loss(score / z, samples) for score, z in zip(scores, normalizers, strict=True)]
        return losses[0] + losses[1]

    @torch.no_grad()
    def _update(self, own: Tensor, other: Tensor, index: Tensor, normalizers: Tensor) -> None:
        index = self.whole_batch(index)
        embeddings = self.whole_batch(torch.stack([own, other], dim=1)).unbind(1)
        for memory, vectors in zip((self.memory_s, self.memory_t), embeddings, strict=True):
            memory.index_copy_(0, index, moved_entries(memory, index, vectors, momentum=self.momentum))
        self.normalizers.copy_(normalizers)
        self.step.add_(1)

    def load_own_state_dict(self, state: dict[str, Tensor]) -> None:
        if "memory_s" in state and len(state["memory_s"]) != len(self.memory_s):
            raise ConfigError(
                f"CRD: the checkpoint's memory holds {len(state['memory_s'])} images, the data set has {len(self.memory_s)}"
            )
        super().load_own_state_dict(state)
