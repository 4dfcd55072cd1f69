"""Ours in theirs: a checkout's own training script, with our methods and trainers in its dictionaries."""

from __future__ import annotations

import runpy
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..checkpoint import ALLOWED
from ..config import default_config, hyper_parameters, stream_options
from ..distillers import create_distiller
from ..distillers.base import Batch, Distiller
from ..distillers.progress import Progress
from ..errors import ConfigError, MissingFileError, Note, listing
from ..meters import top_k_hits
from ..registry import DISTILLERS, TRAINERS
from ..trainers.optimizer import create_optimizer
from ..trainers.step import update
from ..trainers.streams import check_roles, merge_streams
from .checkout import Checkout, load_checkout
from .compatibility import without_cuda
from .settings import PREFIX

_TAKEN = "ext/"  # beginning of a name that the checkout has already
_READ_BY_TRAINERS = ("NO_DECAY", "NESTEROV")
_SIZES = {"imagenet": 224, "tiny_imagenet": 64, "tiny-imagenet": 64}


def run_script(path: str, script: str, arguments: Sequence[str]) -> None:
    """Run ``script`` of the checkout at ``path`` as ``python script arguments`` would, ours added to its dictionaries.

    Nothing of the checkout is changed on the disk. Raises MissingFileError for a script that is neither in the working
    directory nor in the checkout.
    """
    checkout = load_checkout(path)
    places = [Path(script), checkout.root / script]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise MissingFileError(f"script not found: {script}, neither in {Path.cwd()} nor in {checkout.root}")
    extend(checkout)
    argv, folder = sys.argv, str(file.resolve().parent)
    sys.argv = [str(file), *arguments]
    sys.path.insert(0, folder)
    try:
        # Upstream's checkpoints hold numbers of numpy, which torch.load refuses since 2.6.
        with without_cuda(), torch.serialization.safe_globals(ALLOWED):
            runpy.run_path(str(file), run_name="__main__")
    finally:
        sys.argv = argv
        sys.path.remove(folder)


def extend(checkout: Checkout) -> list[str]:
    """Add our methods and trainers to the dictionaries of a checkout, and our defaults to its ``CFG``; returns what was added.

    A name that the checkout has already is ours as ``ext/<NAME>``. Of the defaults, only what is missing is added.
    """
    own = [name for name in DISTILLERS if not name.startswith(PREFIX)]
    methods = {_free(name, checkout.methods): _adapter(name) for name in own}
    trainers = {_free(name, checkout.trainers): _trainer(name, checkout.trainers["base"]) for name in TRAINERS}
    defaults = default_config()
    wanted = {name: defaults[name] for name in own}
    solver = {key: defaults.SOLVER[key] for key in (*_READ_BY_TRAINERS, *map(str.upper, TRAINERS)) if key in defaults.SOLVER}
    _fill(checkout.defaults, CfgNode(wanted | {"SOLVER": solver}))
    checkout.methods.update(methods)
    checkout.trainers.update(trainers)
    return [*methods, *trainers]


def _free(name: str, taken: Any) -> str:
    return f"{_TAKEN}{name}" if name in taken else name


def _fill(node: CfgNode, defaults: CfgNode) -> None:
    for key, value in defaults.items():
        if key not in node:
            node[key] = value
        elif isinstance(value, CfgNode) and isinstance(node[key], CfgNode):
            _fill(node[key], value)


class Adapter(nn.Module):
    """A method of ours with the interface of upstream's distillers.

    ``forward_train`` returns the logits and, for upstream's trainers, ``loss_ce`` (the components of the role ``task``) and
    ``loss_kd`` (all others).
    """

    method: ClassVar[str]

    def __init__(self, student: nn.Module, teacher: nn.Module | None, cfg: CfgNode, num_data: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        needs_teacher = DISTILLERS.get(self.method).needs_teacher
        arguments = hyper_parameters(cfg, self.method)
        self.distiller: Distiller = create_distiller(self.method, student, teacher if needs_teacher else None, **arguments)
        self.progress: Progress | None = None
        if self.distiller.average_last:
            warnings.warn(f"{self.method}: the checkout's loop does not average the last students", Note, stacklevel=2)

    @property
    def student(self) -> nn.Module:
        """The network that upstream's trainers save."""
        return self.distiller.student

    def prepare(self) -> None:
        """Build the method's own layers; upstream moves the networks to their device before it asks for parameters."""
        if self.distiller.needs_index and self.distiller.train_labels is None:
            raise ConfigError(
                f"{self.method} needs the labels of the training set and the index of each image, which this trainer of the "
                f"checkout does not give: choose SOLVER.TRAINER {_TAKEN}base"
            )
        size = _SIZES.get(self.cfg.DATASET.TYPE, 32)
        self.distiller.prepare((3, size, size))
        if self.progress is None:
            device = next(self.distiller.student.parameters()).device
            self.progress = Progress(1, self.cfg.SOLVER.EPOCHS, device)

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """Parameters of the student and of the method's own layers, which are built first."""
        self.prepare()
        return list(self.distiller.learnable_parameters())

    def get_extra_parameters(self) -> int:
        """Number of parameters beside the student's; 0 where they cannot be known before the trainer has the labels."""
        if self.distiller.needs_index and self.distiller.train_labels is None:
            return 0
        student = sum(parameter.numel() for parameter in self.distiller.student.parameters())
        return sum(parameter.numel() for parameter in self.get_learnable_parameters()) - student

    def get_train_info(self) -> dict[str, Any]:
        """What GDKD's trainer logs besides the losses: nothing."""
        return {}

    def batch(self, image: Tensor | Sequence[Tensor], target: Tensor, index: Tensor | None) -> Batch:
        """The batch of what upstream's loader yields. Raises ConfigError where the method needs more."""
        views: list[Tensor] = [image] if isinstance(image, Tensor) else list(image)
        wanted = len(self.distiller.views)
        if len(views) < wanted:
            raise ConfigError(
                f"{self.method} needs {wanted} views of each image ({listing(self.distiller.views)}), and this loader gives one"
            )
        images = torch.stack(views, dim=1) if wanted > 1 else views[0]
        return Batch(images, target, index if self.distiller.needs_index else None)

    def forward_train(
        self,
        image: Tensor | None = None,
        target: Tensor | None = None,
        epoch: int | None = None,
        index: Tensor | None = None,
        image_weak: Tensor | None = None,
        image_strong: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As upstream's; what a trainer gives beyond that is not used."""
        self.prepare()
        images = image if image is not None else [view for view in (image_weak, image_strong) if view is not None]
        if epoch is None or target is None or self.progress is None:
            raise ConfigError(f"{self.method} needs image, target and epoch; this trainer does not give all: choose another")
        self.progress.set_epoch(epoch)
        batch = self.batch(images, target, index)
        student, losses = self.distiller(batch.images, batch.labels, self.progress, batch.index)
        roles = {"loss_ce": True, "loss_kd": False}
        parts = {name: [v for k, v in losses.items() if k.startswith("task/") is task] for name, task in roles.items()}
        return student.logits, {name: torch.stack(values).sum() for name, values in parts.items() if values}

    def forward_test(self, image: Tensor) -> Tensor:
        """The student's logits ``[N, C]``, as upstream's ``forward_test``."""
        logits: Tensor = self.distiller.student(image)[0]
        return logits

    def forward(self, **batch: Any) -> Any:
        return self.forward_train(**batch) if self.training else self.forward_test(batch["image"])


def _adapter(method: str) -> type[Adapter]:
    return type(f"ext_{method}", (Adapter,), {"method": method})


def _trainer(name: str, base: Any) -> type:
    """A subclass of the checkout's BaseTrainer with the streams and the step of our trainer ``name``."""
    ours = TRAINERS.get(name)

    class ExtTrainer(base):
        def init_optimizer(self, cfg: CfgNode) -> Any:
            adapter = self.distiller.module
            if not isinstance(adapter, Adapter):
                raise ConfigError(
                    f"trainer {name} of mdistiller_ext trains its own methods ({listing(_own_names())}), not "
                    f"{cfg.DISTILLER.TYPE} of the checkout"
                )
            distiller = adapter.distiller
            if distiller.needs_index:
                distiller.train_labels = _labels(self.train_loader, adapter)
            adapter.prepare()
            if distiller.lr_scale:
                raise ConfigError(f"{adapter.method}: the checkout's schedule has one learning rate for all layers")
            options = stream_options(cfg, name)
            streams = ours.streams(cfg.SOLVER.MOMENTUM, **options)
            size = _SIZES.get(cfg.DATASET.TYPE, 32)
            check_roles(ours, type(distiller), streams, distiller.component_names((3, size, size)))
            self.streams = merge_streams(streams)
            return create_optimizer(
                distiller,
                self.streams,
                lr=cfg.SOLVER.LR,
                weight_decay=cfg.SOLVER.WEIGHT_DECAY,
                no_decay=cfg.SOLVER.NO_DECAY,
                partial_momentum=ours.partial_momentum(cfg.SOLVER.MOMENTUM, **options),
                nesterov=cfg.SOLVER.NESTEROV,
            )

        def train_iter(self, data: Any, epoch: int, train_meters: Any) -> str:
            started = time.time()
            adapter = self.distiller.module
            adapter.progress.set_epoch(epoch)
            device = next(adapter.distiller.student.parameters()).device
            images, target, index = (_to(part, device) for part in data[:3])
            batch = adapter.batch(images, target, index)
            parts = (batch.images, batch.labels, batch.index)
            logits, losses = update(adapter.distiller, self.optimizer, self.streams, adapter.progress, *parts)
            count = len(target)
            train_meters["training_time"].update(time.time() - started)
            train_meters["losses"].update(sum(float(value) for value in losses.values()), count)
            for k in (1, 5):
                train_meters[f"top{k}"].update(100 * float(top_k_hits(logits, target, k)) / count, count)
            shown = "| ".join(f"{key}:{train_meters[key].avg:.3f}" for key in ("losses", "top1", "top5"))
            return f"Epoch:{epoch}| {shown}"

    ExtTrainer.__name__ = ExtTrainer.__qualname__ = f"ext_{name}"
    return ExtTrainer


def _own_names() -> Iterator[str]:
    return (f"{_TAKEN}{name}" for name in DISTILLERS if not name.startswith(PREFIX))


def _labels(loader: Any, adapter: Adapter) -> Tensor:
    """Labels of the training set of upstream's loader. Raises ConfigError where its data set has none."""
    for name in ("targets", "labels"):
        labels = getattr(loader.dataset, name, None)
        if labels is not None:
            return torch.as_tensor(labels, dtype=torch.long)
    raise ConfigError(f"{adapter.method} needs the labels of the training set: {type(loader.dataset).__name__} has no targets")


def _to(part: Any, device: torch.device) -> Any:
    if isinstance(part, list | tuple):
        return [_to(each, device) for each in part]
    return part.to(device).float() if part.is_floating_point() or part.dtype == torch.uint8 else part.to(device)
