"""Two trainings from the same weights on the same batches: a checkout's class and trainer, and ours."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..config import hyper_parameters, solver_arguments, stream_options
from ..distillers import create_distiller
from ..registry import DISTILLERS, TRAINERS
from .cases import CLASSES, Case, networks, our_config, their_cfg
from .compatibility import without_cuda
from .contrast import ContrastiveIndex


class Batches:
    """Random batches, the same for both sides: images, labels, positions in a training set of ``images``, CRD's contrast."""

    def __init__(self, case: Case, steps: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = case.batch_size * 40
        self.labels = torch.randint(CLASSES, (self.images,), generator=generator)
        size = (case.batch_size, 2, 3, 32, 32)
        self.batches = []
        for _ in range(steps):
            index = torch.randperm(self.images, generator=generator)[: case.batch_size]
            self.batches.append((torch.randn(size, generator=generator, dtype=dtype), self.labels[index], index))
        self.contrast: list[Tensor] = []

    def draw_contrast(self, cfg: CfgNode) -> None:
        """Draw the positives and negatives of CRD for every batch, by the checkout's settings."""
        drawn = ContrastiveIndex(self.labels, cfg.CRD.NCE.K, cfg.CRD.MODE)
        self.contrast = [drawn.draw(index, labels) for _, labels, index in self.batches]


class Theirs:
    """The checkout's class, driven by its trainer's ``train_iter``, or by its optimizer where that cannot run here.

    Args:
        probe_in_eval: construct the class with networks in eval mode.

    Attributes:
        driven: whether ``train_iter`` is run.
    """

    def __init__(
        self, case: Case, batches: Batches, dtype: torch.dtype, *, probe_in_eval: bool = False, driven: bool = True
    ) -> None:
        self.case, self.batches, self.dtype, self.driven = case, batches, dtype, driven
        self.cfg = their_cfg(case)
        student, teacher = networks(case, dtype)
        self.student, self.teacher = (self._own(name, net) for name, net in ((case.student, student), (case.teacher, teacher)))
        if probe_in_eval:
            self.student.eval()
            self.teacher.eval()
        theirs: Any = case.checkout.methods[case.method]
        wanted = inspect.signature(theirs.__init__).parameters
        parts = (self.student, self.teacher)[: len(wanted) - 1] if len(wanted) < 4 else (self.student, self.teacher, self.cfg)
        with self._running():
            torch.manual_seed(2)
            self.method = theirs(*parts, **({"num_data": batches.images} if "num_data" in wanted else {})).to(dtype)
            self.method.train()
            self.takes = inspect.signature(theirs.forward_train).parameters
            if "contrastive_index" in self.takes and not batches.contrast:
                batches.draw_contrast(self.cfg)
            self.trainer = self._make_trainer()
        self.meters: Any = defaultdict(sys.modules["mdistiller.engine.utils"].AverageMeter)
        self.trainer.train_meters = self.meters
        self.trainer.train_info_meters = self.meters

    def _own(self, name: str, ours: nn.Module) -> nn.Module:
        """The checkout's network of that name with the same weights; ours where it has none or another architecture."""
        make = self.case.checkout.network(name)
        network: nn.Module = make(num_classes=CLASSES).to(self.dtype) if make is not None else copy.deepcopy(ours)
        with contextlib.suppress(RuntimeError):
            network.load_state_dict(ours.state_dict())
            return network
        return copy.deepcopy(ours)

    def _make_trainer(self) -> Any:
        trainers = self.case.checkout.trainers
        name = self.case.trainer if self.case.trainer in trainers else "base"
        distiller = _Wrapped(self.method)
        trainer = trainers[name]("compare", distiller, [], [], self.cfg)
        adjust = getattr(sys.modules["mdistiller.engine.utils"], "adjust_learning_rate", None)
        if not hasattr(trainer, "lr_scheduler") and adjust is not None:
            adjust(1, self.cfg, trainer.optimizer)
        return trainer

    def step(self, number: int) -> None:
        """Train on batch ``number``."""
        images, labels, index = self.batches.batches[number]
        views = [name for name in self.takes if name.startswith("image_")]
        contrast = [self.batches.contrast[number]] if "contrastive_index" in self.takes else []
        with self._running():
            if self.driven:
                image = list(images.unbind(1)) if views else images[:, 0].contiguous()
                wanted = inspect.signature(self.trainer.train_iter).parameters
                meters = [self.meters] if len(wanted) > 2 else []
                self.trainer.train_iter((image, labels, index, *contrast), 1, *meters)
                return
            given = dict(zip(views, images.unbind(1), strict=False)) if views else {"image": images[:, 0].contiguous()}
            given |= {"contrastive_index": contrast[0], "index": index} if contrast else {}
            _, losses = self.method.forward_train(target=labels, epoch=1, **given)
            self.trainer.optimizer.zero_grad()
            torch.stack([value.mean() for value in losses.values()]).sum().backward()
            self.trainer.optimizer.step()

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Their code: silent, without CUDA, in our precision."""
        to_float = Tensor.float
        if self.dtype == torch.float64:
            Tensor.float = Tensor.double  # type: ignore[method-assign]
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with without_cuda(), contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            Tensor.float = to_float  # type: ignore[method-assign]
            torch.set_default_dtype(default)

    def own_tensors(self) -> list[Tensor]:
        """Parameters and buffers of the method's own layers."""
        apart = {id(each) for net in (self.student, self.teacher) for each in (*net.parameters(), *net.buffers())}
        trained = [each for each in self.method.get_learnable_parameters() if id(each) not in apart]
        others = [each for each in (*self.method.parameters(), *self.method.buffers()) if id(each) not in apart]
        return list({id(each): each for each in (*trained, *others)}.values())


class _Wrapped:
    """What upstream's trainers ask of DataParallel, on the CPU."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.train = module.train

    def __call__(self, **batch: Any) -> Any:
        return self.module(**batch)


class Ours:
    """Our method and trainer.

    Args:
        settings: overrides on those of the case.

    Attributes:
        unmatched: own layers whose initial weights could not be taken over, in words; empty where all were.
    """

    def __init__(self, case: Case, batches: Batches, dtype: torch.dtype, theirs: Theirs, settings: Sequence[str] = ()) -> None:
        config = our_config(case, settings)
        self.batches = batches
        student, teacher = networks(case, dtype)
        method = config.DISTILLER.TYPE
        needs_teacher = DISTILLERS.get(method).needs_teacher
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            arguments = hyper_parameters(config, method)
            self.distiller = create_distiller(method, student, teacher if needs_teacher else None, **arguments)
            loader = _Loader(
                image_shape=(3, 32, 32), batch_size=case.batch_size, num_images=batches.images, labels=batches.labels
            )
            self.trainer: Any = TRAINERS.get(config.SOLVER.TRAINER)(
                self.distiller,
                loader,
                loader,
                **solver_arguments(config),
                stream_options=stream_options(config, config.SOLVER.TRAINER),
            )
        finally:
            torch.set_default_dtype(default)
        self.student = student
        self.trainer.progress.set_epoch(1)
        self.distiller.train()
        self.unmatched = _take_over(self.distiller, theirs.own_tensors())
        self._module = sys.modules[type(self.distiller).__module__]

    def step(self, number: int) -> None:
        """Train on batch ``number``; CRD draws the negatives of the batch."""
        images, labels, index = self.batches.batches[number]
        part = images if len(self.distiller.views) > 1 else images[:, 0].contiguous()
        draw = getattr(self._module, "draw_contrast", None)
        if draw is not None:
            self._module.draw_contrast = lambda *args, **kwargs: self.batches.contrast[number]  # type: ignore[attr-defined]
        try:
            self.trainer.train_step(part, labels, *([index] if self.distiller.needs_index else []))
        finally:
            if draw is not None:
                self._module.draw_contrast = draw  # type: ignore[attr-defined]


class _Loader(SimpleNamespace):
    def __len__(self) -> int:
        return 40


def _take_over(distiller: nn.Module, theirs: list[Tensor]) -> str:
    """Copy the initial values of their own layers into ours, by order and shape; returns what has no counterpart, in words.

    Of buffers only tables such as CRD's memories: statistics of batch norm begin alike, and margins are computed.
    """
    named = [*distiller.named_parameters(), *((name, each) for name, each in distiller.named_buffers() if each.ndim > 1)]
    own = [each for name, each in named if name.split(".")[0] not in ("student", "teacher") and each.is_floating_point()]
    left, missing = list(theirs), 0
    with torch.no_grad():
        for each in own:
            kind = isinstance(each, nn.Parameter)
            fitting = (
                i for i, other in enumerate(left) if other.shape == each.shape and isinstance(other, nn.Parameter) == kind
            )
            match = next(fitting, None)
            if match is not None:
                each.copy_(left.pop(match))
            elif kind:
                missing += each.numel()
    return f"{missing} own parameters of ours have no counterpart, and start as ours do" if missing else ""
