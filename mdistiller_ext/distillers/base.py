"""Base class of distillation methods: runs student and teacher, checks their outputs, and selects parameters and state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from ..distributed import all_gather_rows
from ..errors import ConfigError, listing
from ..evaluate import eval_mode, try_images
from ..losses import standardize
from .outputs import Batch, LogitsOnly, Output, Outputs, run_network
from .progress import Progress, epoch_of

ROLES = ("task", "target", "nontarget", "kd")

Weight = Annotated[float, "not negative"]
"""Annotation of a hyper-parameter that weights a loss; negative values raise ConfigError."""


def paired_logits(student: Output, teacher: Output, *, standardized: bool) -> tuple[Tensor, Tensor]:
    """Logits of student and teacher, each ``[N, C]``; if ``standardized``, z-scored per sample (LSKD, CVPR 2024)."""
    if standardized:
        return standardize(student.logits), standardize(teacher.logits)
    return student.logits, teacher.logits


class Distiller(nn.Module):
    """Base class of distillation methods: a student, a frozen teacher and the losses between them.

    Subclasses override :meth:`losses` and, to build layers from the shapes of features, :meth:`setup`. The keyword-only
    arguments of their ``__init__`` are the hyper-parameters, and become settings ``METHOD.ARGUMENT`` with the same defaults.
    Layers, parameters and buffers that a subclass adds are trained, saved and resumed with the student.

    Args:
        student: the network to train.
        teacher: the network to learn from; it is frozen and set to eval mode. None for methods without a teacher.

    Raises ConfigError if the method needs a teacher and there is none, or if both are the same module.
    """

    needs_teacher: ClassVar[bool] = True
    # Whether batches name the positions of their images in the training set; ``train_labels`` is then set before setup().
    needs_index: ClassVar[bool] = False
    # Views of each image, each augmented on its own: ``weak`` (as the data set does) and ``strong``.
    views: ClassVar[tuple[str, ...]] = ("weak",)
    # Names of settings that differ from the argument's name in capitals, such as {"ce_weight": "LOSS.CE_WEIGHT"}.
    config_keys: ClassVar[dict[str, str]] = {}
    can_be_captured: ClassVar[bool] = True  # by a CUDA graph; False where steps change Python values
    # Number of last epochs whose students are averaged at the end of training; 0 disables averaging.
    average_last: int = 0
    # Factor on the learning rate of own layers, by the name of the attribute, such as {"projection": 10.0}.
    lr_scale: Mapping[str, float] = {}
    train_labels: Tensor | None = None  # of the training set, int64 [images], if ``needs_index``
    # Number of samples of the current batch on each rank; None with a single process.
    batch_sizes: list[int] | None = None
    # Autocast dtype of the student's forward pass; None disables autocast. Losses are computed in float32.
    autocast: torch.dtype | None = None
    # Whether each batch brings the teacher's logits (teacher_cache.py). The method cannot read its features then.
    teacher_is_cached: bool = False
    # Returns the network to run as the teacher, such as a faster copy (acceleration.py); None runs the teacher itself.
    inference_path: Callable[[], nn.Module] | None = None

    def __init__(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().__init__()
        if teacher is None and self.needs_teacher:
            raise ConfigError(f"{type(self).__name__} needs a teacher")
        if teacher is student:
            raise ConfigError("student and teacher are the same module; freezing the teacher would freeze the student")
        self.student = student
        self.teacher = teacher
        self._names: set[str] = set()  # of the components, set by the first call
        self._is_set_up = type(self).setup is Distiller.setup
        self._reads_batch = list(inspect.signature(self.losses).parameters)[2:3] == ["batch"]
        if teacher is not None:
            teacher.requires_grad_(False).eval()

    def setup(self, student: Any, teacher: Any) -> None:
        """Build layers of the method's own from the shapes of features; nothing by default.

        Called once before training, without gradients.

        Args:
            student, teacher: as in :meth:`losses`, of two black images, in eval mode.
        """

    def losses(self, student: Any, teacher: Any, batch: Any, progress: Progress) -> dict[str, Tensor]:
        """Compute the loss components.

        Args:
            student, teacher: Output for the same batch, logits ``[N, C]``; with several ``views`` a tuple of them, in their
                order. Without a teacher, both are the student's.
            batch: Batch with ``labels`` ``[N]`` and, if ``needs_index``, ``index`` ``[N]``. A method that names this parameter
                ``labels`` is given the labels only.

        Returns:
            Scalar tensors by ``role/name``, already weighted, whose sum is the loss. Roles: ``task`` (labels), ``target`` and
            ``nontarget`` (the parts of a decoupled KD) and ``kd`` (any other knowledge of the teacher). The names must be the
            same in every step.
        """
        raise NotImplementedError

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        progress: Progress,
        index: Tensor | None = None,
        teacher_logits: Tensor | None = None,
    ) -> tuple[Output, dict[str, Tensor]]:
        """The student's output, for the first view, and the loss components of a batch.

        Args:
            images, labels, index, teacher_logits: see Batch.
        """
        self.prepare((images.shape[-3], images.shape[-2], images.shape[-1]))
        output, losses = self.compute(Batch(images, labels, index, teacher_logits), progress)
        if not self._names:
            self._check_losses(losses)
            self._names = set(losses)
        if losses.keys() != self._names:
            raise ConfigError(self._other_names(losses.keys(), progress))
        return output, losses

    def compute(self, batch: Batch, progress: Progress) -> tuple[Output, dict[str, Tensor]]:
        """As :meth:`forward`, without its checks; overridden by a method that runs the networks itself."""
        student, teacher = self._outputs(batch.images, batch.teacher_logits)
        first = student if isinstance(student, Output) else student[0]
        if not self._names:
            self._check_outputs(student, teacher, count=len(batch.labels))
        return first, self.losses(student, teacher, batch if self._reads_batch else batch.labels, progress)

    def _outputs(self, images: Tensor, teacher_logits: Tensor | None = None) -> tuple[Outputs, Outputs]:
        """Outputs of student and teacher; the teacher does not run where its logits are given."""
        views = images.unbind(1) if len(self.views) > 1 else (images,)
        with torch.autocast(images.device.type, self.autocast, enabled=self.autocast is not None):
            student = tuple(run_network(self.student, view, "student") for view in views)
        # Without a teacher, losses() receives the student's output twice.
        teacher = student
        if teacher_logits is not None:
            teacher = (Output(teacher_logits, LogitsOnly()),)
        elif self.teacher is not None:
            teacher = tuple(self.teacher_output(view) for view in views)
            if self.teacher_is_cached:
                teacher = tuple(Output(output.logits, LogitsOnly()) for output in teacher)
        return (student, teacher) if len(views) > 1 else (student[0], teacher[0])

    def teacher_output(self, images: Tensor) -> Output:
        """The teacher's output for images ``[N, 3, H, W]``, as in training."""
        with torch.no_grad():
            return run_network(self.inference_network(), images, "teacher")

    def inference_network(self) -> nn.Module:
        """The network that :meth:`forward` runs as the teacher: the teacher itself, or a copy prepared for inference."""
        if self.inference_path is not None:
            return self.inference_path()
        assert self.teacher is not None
        return self.teacher

    def whole_batch(self, rows: Tensor) -> Tensor:
        """Gather the rows of all ranks: ``[n, ...]`` -> ``[N, ...]``. Gradients reach the rank's own rows.

        For losses that relate samples, and so are not a mean over samples: each rank computes the loss of the whole batch.
        """
        return all_gather_rows(rows, self.batch_sizes) if self.batch_sizes else rows

    def _check_outputs(self, student: Outputs, teacher: Outputs, count: int) -> None:
        """Raise ConfigError unless both networks give logits ``[count, C]``, of the first view, for the same C classes."""
        shapes = []
        for who, output in (("student", student), ("teacher", teacher)):
            shapes.append((output if isinstance(output, Output) else output[0]).logits.shape)
            if len(shapes[-1]) != 2 or shapes[-1][0] != count:
                raise ConfigError(f"the {who} must return logits [N, C] with N = {count}, not {list(shapes[-1])}")
        if shapes[0] != shapes[1]:
            raise ConfigError(f"the student has {shapes[0][1]} classes and the teacher {shapes[1][1]}; they must agree")

    def _check_losses(self, losses: dict[str, Tensor]) -> None:
        name = type(self).__name__
        if not losses:
            raise ConfigError(f"{name}.losses() returned no component")
        for key, value in losses.items():
            if key.split("/")[0] not in ROLES or key.count("/") != 1 or key.endswith("/"):
                raise ConfigError(
                    f"{name}.losses() returned '{key}'; components are named role/name, role one of {', '.join(ROLES)}"
                )
            if not isinstance(value, Tensor) or value.ndim != 0:
                shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ConfigError(f"{name}.losses()['{key}'] must be a scalar tensor, not {shape}")

    def _other_names(self, names: Set[str], progress: Progress) -> str:
        """Message about a step whose components differ from those of the first step."""
        differences = [("adds", names - self._names), ("leaves out", self._names - names)]
        changes = " and ".join(f"{verb} {listing(sorted(which))}" for verb, which in differences if which)
        return (
            f"{type(self).__name__}.losses() {changes} in epoch {int(epoch_of(progress))}: every step returns the same names. "
            "Return a component that does not apply as zero, such as 0 * student.logits.sum()"
        )

    def prepare(self, image_shape: tuple[int, int, int]) -> None:
        """Build the method's own layers by :meth:`setup`, on the student's device and in its dtype; only the first call does.

        Trainers do so, and so does the first forward pass. In a training loop of one's own, call it before creating the
        optimizer. Raises ConfigError if a model does not support images ``[3, H, W]`` of this shape, or from ``setup``.
        """
        if not self._is_set_up:
            self._prepare(self._black_images(image_shape))

    def _prepare(self, images: Tensor) -> None:
        if self.needs_index and self.train_labels is None:
            raise ConfigError(f"{type(self).__name__} needs the labels of the training set: set distiller.train_labels")
        with eval_mode(self), torch.no_grad():
            outputs = self._outputs(images)
            self._check_outputs(*outputs, count=len(images))
            self.setup(*outputs)
        self.to(images.device, images.dtype)
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.student.modules()):
            for name, layer in self.named_children():
                if name not in ("student", "teacher"):
                    setattr(self, name, nn.SyncBatchNorm.convert_sync_batchnorm(layer))
        self._is_set_up = True

    def component_names(self, image_shape: tuple[int, int, int]) -> list[str]:
        """Prepare the method, and return the names of its components, those of two black images ``[3, H, W]`` in eval mode.

        Raises ConfigError if a model does not support such images, an output or hyper-parameter is invalid, or a loss is not
        finite.
        """
        images = self._black_images(image_shape)
        labels = torch.zeros(2, dtype=torch.long, device=images.device)
        try:
            if not self._is_set_up:
                self._prepare(images)
            with eval_mode(self), torch.no_grad():
                index = labels if self.needs_index else None
                _, losses = self(images, labels, Progress(1, 1, images.device), index)
        except ConfigError:
            raise
        except ValueError as error:  # a loss function rejects an argument
            raise ConfigError(f"{type(self).__name__}: {error}") from error
        bad = [name for name, value in losses.items() if not value.isfinite()]
        if bad:
            raise ConfigError(f"{type(self).__name__} gives no finite {', '.join(bad)}; look at its temperature and weights")
        return list(losses)

    def _black_images(self, image_shape: tuple[int, int, int]) -> Tensor:
        """Two images of zeros, in all views. Raises ConfigError if a model does not support them."""
        weight = next(self.student.parameters())
        images = torch.zeros(2, *image_shape, device=weight.device, dtype=weight.dtype)
        for model in (self.student, self.teacher):
            if model is not None:
                try_images(model, images)
        return images if len(self.views) == 1 else torch.stack([images] * len(self.views), dim=1)

    def train(self, mode: bool = True) -> Distiller:
        """Set the mode of the student and the method's own layers; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def learnable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the student and of the method's own layers. Raises RuntimeError before those are built."""
        if not self._is_set_up:
            raise RuntimeError(
                f"{type(self).__name__} has no layers yet: call prepare(image_shape) before creating an optimizer"
            )
        return (p for name, p in self.named_parameters() if not name.startswith("teacher."))

    def changing_buffers(self) -> list[Tensor]:
        """Buffers of the student and of the method, such as the statistics of batch norm."""
        return [buffer for name, buffer in self.named_buffers() if not name.startswith("teacher.")]

    def own_state_dict(self) -> dict[str, Tensor]:
        """State of the method's own layers and buffers, without student and teacher."""
        return {k: v for k, v in self.state_dict().items() if k.split(".")[0] not in ("student", "teacher")}

    def load_own_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the result of :meth:`own_state_dict`. Raises ConfigError if the entries differ."""
        own = self.own_state_dict()
        if set(own) != set(state):
            raise ConfigError(f"{type(self).__name__} has layers {sorted(own)}, the checkpoint {sorted(state)}")
        self.load_state_dict(state, strict=False)
