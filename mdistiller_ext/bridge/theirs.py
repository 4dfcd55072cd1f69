"""Theirs in ours: every class of a checkout's ``distiller_dict`` as a method ``upstream/<NAME>``."""

from __future__ import annotations

import contextlib
import copy
import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..distillers.base import Batch, Distiller, Output
from ..distillers.progress import Progress
from ..distributed import broadcast_
from ..errors import ConfigError, Note, UserError, listing, shown
from ..registry import DISTILLERS, register_distiller
from ..settings import Plumbing
from .checkout import Checkout, load_checkout
from .compatibility import without_cuda
from .contrast import ContrastiveIndex
from .settings import PREFIX, UpstreamSettings, roles
from .state import load_own_state, own_state

_TASK = ("loss_ce", "loss_task", "ce")
_PARTS = {"loss_tckd": "target", "loss_nckd": "nontarget"}  # as DeepKD's release names them
_VIEWS = {"image_weak": 0, "image_w": 0, "image_strong": 1, "image_s": 1}
_GIVEN = ("image", "target", "epoch", "index", "contrastive_index", *_VIEWS)


class UpstreamMethod(Distiller):
    """A method of a checkout. Its class runs the networks and computes the losses; training, records and resuming are ours.

    ``forward_train`` is given what its signature names: ``image``, ``target``, ``epoch``, ``index``, ``contrastive_index``
    (drawn as mdistiller's data set for CRD does), ``image_weak`` and ``image_strong``; with ``**kwargs`` also ``epoch`` and
    ``index``. Losses ``loss_ce``, ``loss_task`` and ``ce`` get the role ``task``, ``loss_tckd`` ``target``, ``loss_nckd``
    ``nontarget`` and all others ``kd``, unless ``UPSTREAM.ROLES`` says otherwise.
    """

    name: ClassVar[str]
    upstream_class: ClassVar[Any]
    upstream_settings: ClassVar[UpstreamSettings]
    takes_settings = True
    can_be_captured = False

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, *, settings: Plumbing[Mapping[str, Any] | None] = None
    ) -> None:
        super().__init__(student, teacher)
        self.upstream: Any = None
        settings = settings or {}
        self.cfg = self.upstream_settings.for_class(settings, self.name)
        self._roles = dict.fromkeys(_TASK, "task") | _PARTS | roles(settings.get("UPSTREAM.ROLES", []))
        parameters = inspect.signature(self.upstream_class.forward_train).parameters
        named = [name for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD][1:]
        unknown = [name for name in named if name not in _GIVEN and parameters[name].default is inspect.Parameter.empty]
        if unknown:
            raise ConfigError(
                f"{PREFIX}{self.name}.forward_train needs {listing(unknown)}, which this loop does not have; it gives "
                f"{listing(_GIVEN)}"
            )
        self._arguments = [name for name in named if name in _GIVEN]
        if len(named) != len(parameters) - 1:  # **kwargs
            images = [] if {*named} & {*_VIEWS} else ["image"]
            self._arguments += [name for name in (*images, "target", "epoch", "index") if name not in named]
        self._contrast: ContrastiveIndex | None = None
        self._teacher_changes = False
        self._learnable: list[nn.Parameter] = []

    # ---- building -------------------------------------------------------------------------------------------------

    def setup(self, student: Any, teacher: Any) -> None:
        """Call the constructor, with the networks on the CPU: it may send them noise of the CPU."""
        device = next(self.student.parameters()).device
        networks = [self.student] if self.teacher is None else [self.student, self.teacher]
        labels = self.train_labels
        arguments: dict[str, Any] = {"cfg": self.cfg, "num_data": 0 if labels is None else len(labels)}
        wanted = inspect.signature(self.upstream_class.__init__).parameters
        for network in networks:
            network.cpu()
        with without_cuda(), self._clear_errors("its constructor"):
            self.upstream = self.upstream_class(*networks, **{k: v for k, v in arguments.items() if k in wanted})
        # Upstream's code takes views of feature maps, which those of channels-last networks do not allow.
        self.to(device).to(memory_format=torch.contiguous_format)
        self._learnable = list(dict.fromkeys(self.upstream.get_learnable_parameters()))
        for parameter in self._learnable:
            parameter.requires_grad_(True)
        # The constructor drew other numbers on each rank.
        broadcast_([value for value in self.own_state_dict().values() if isinstance(value, Tensor)])
        if "contrastive_index" in self._arguments:
            assert labels is not None
            self._contrast = ContrastiveIndex(labels.cpu(), self.cfg.CRD.NCE.K, self.cfg.CRD.MODE)
        self._teacher_changes = self._changes_teacher()
        if self._teacher_changes:
            warnings.warn(
                f"{PREFIX}{self.name} runs its teacher in train mode, as upstream does: its running statistics change during "
                "training, and the accuracy of the teacher that a resumed run shows is not that of the file",
                Note,
                stacklevel=2,
            )

    def _changes_teacher(self) -> bool:
        if self.teacher is None:
            return False
        mode = self.training
        self.train()
        changes = any(module.training for module in self.teacher.modules())
        self.train(mode)
        return changes

    def component_names(self, image_shape: tuple[int, int, int]) -> list[str]:
        """As Distiller's, with a copy of the method: a step may change its state, such as CRD's memories and constants."""
        self.prepare(image_shape)
        device = next(self.student.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            views = (len(self.views),) if len(self.views) > 1 else ()
            images = torch.randn(2, *views, *image_shape).to(next(self.student.parameters()))
            two = torch.arange(2, device=device)
            probe = copy.deepcopy(self.upstream).train()
            with self._clear_errors("its step for two images"):
                _, losses = self._run(probe, Batch(images, two, two if self.needs_index else None), 1)
        self._check_losses(losses)
        return list(losses)

    @contextlib.contextmanager
    def _clear_errors(self, what: str) -> Iterator[None]:
        """Raise ConfigError, with the line in the checkout, for an error that networks or settings most often cause."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            root = str(self.upstream_settings.checkout.root)
            frame = [frame for frame in frames if frame.filename.startswith(root)] or frames
            raise ConfigError(
                f"{PREFIX}{self.name}: {what} fails with these networks and settings: {type(error).__name__}: {error} "
                f"({frame[-1].filename}, line {frame[-1].lineno})"
            ) from error

    # ---- training -------------------------------------------------------------------------------------------------

    def compute(self, batch: Batch, progress: Progress) -> tuple[Output, dict[str, Tensor]]:
        return self._run(self.upstream, batch, int(progress.epoch))

    def _run(self, module: Any, batch: Batch, epoch: int) -> tuple[Output, dict[str, Tensor]]:
        given = {name: self._argument(name, batch, epoch) for name in self._arguments}
        with without_cuda():
            result = module.forward_train(**given)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise ConfigError(f"{PREFIX}{self.name}.forward_train must return (logits, losses by name), not {shown(result)}")
        logits, losses = result
        # Theirs add the mean of each: CRD's has shape [1].
        means = {k: v.mean() if isinstance(v, Tensor) else logits.new_tensor(float(v)) for k, v in losses.items()}
        return Output(logits, {}), {f"{self._roles.get(name, 'kd')}/{name}": value for name, value in means.items()}

    def _argument(self, name: str, batch: Batch, epoch: int) -> Any:
        if name in _VIEWS:
            return batch.images[:, _VIEWS[name]].contiguous()
        if name == "contrastive_index":
            assert self._contrast is not None
            assert batch.index is not None
            return self._contrast.draw(batch.index, batch.labels)
        return {"image": batch.images.contiguous(), "target": batch.labels, "epoch": epoch, "index": batch.index}[name]

    def train(self, mode: bool = True) -> UpstreamMethod:
        """Set the mode as their class does, teacher included."""
        if self.upstream is None:
            super().train(mode)
        else:
            self.training = mode
            self.upstream.train(mode)
        return self

    @property
    def autocast(self) -> torch.dtype | None:
        """None: their class runs networks and losses in one function, all of which autocast would reach."""
        return None

    @autocast.setter
    def autocast(self, dtype: torch.dtype | None) -> None:
        if dtype is not None:
            raise ConfigError(f"SOLVER.AMP: {PREFIX}{self.name} computes its losses within its forward pass; use none")

    # ---- parameters and state -------------------------------------------------------------------------------------

    def learnable_parameters(self) -> Iterator[nn.Parameter]:
        """Those of ``get_learnable_parameters``. Raises RuntimeError before the class is built."""
        next(super().learnable_parameters())
        return iter(self._learnable)

    def own_state_dict(self) -> dict[str, Any]:
        """All that their class keeps beside student and teacher, and of a teacher that it changes."""
        apart = [network for network in (self.student, self.teacher) if network is not None]
        teacher = {} if self.teacher is None else dict(self.teacher.named_parameters())
        trained = set(self._learnable)
        state = own_state(self.upstream, apart)
        state |= {f"teacher.{name}": value.detach() for name, value in teacher.items() if value in trained}
        if self.teacher is not None and self._teacher_changes:
            state |= {f"teacher.{name}": value for name, value in self.teacher.named_buffers()}
        return state

    def load_own_state_dict(self, state: Mapping[str, Any]) -> None:
        apart = [network for network in (self.student, self.teacher) if network is not None]
        of_teacher = {k.removeprefix("teacher."): v for k, v in state.items() if k.startswith("teacher.")}
        if self.teacher is not None:
            self.teacher.load_state_dict(of_teacher, strict=False)
        own = {k: v for k, v in state.items() if not k.startswith("teacher.")}
        load_own_state(self.upstream, apart, own, next(self.student.parameters()).device)


class Upstream:
    """A checkout whose methods are registered.

    Attributes:
        sources: its files, which a run keeps like those of plug-ins.
        dialect: for load_config.
    """

    def __init__(self, path: str) -> None:
        self.checkout: Checkout = load_checkout(path)
        self.settings = UpstreamSettings(self.checkout)
        self.sources: Mapping[str, bytes] = self.checkout.sources
        self.dialect: Callable[[dict[str, Any], str], dict[str, Any]] = self.settings.dialect
        for name, upstream_class in self.checkout.methods.items():
            if f"{PREFIX}{name}" not in DISTILLERS:
                _register(name, upstream_class, self.settings)


def _register(name: str, upstream_class: Any, settings: UpstreamSettings) -> None:
    if not hasattr(upstream_class, "forward_train"):
        raise ConfigError(f"the checkout's {name} ({upstream_class.__name__}) has no forward_train")
    forward = inspect.signature(upstream_class.forward_train).parameters
    built_from = inspect.signature(upstream_class.__init__).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in forward.values())
    facts = {
        "__module__": upstream_class.__module__,
        "__doc__": upstream_class.__doc__,
        "name": name,
        "upstream_class": upstream_class,
        "upstream_settings": settings,
        "needs_teacher": len(built_from) > 2,  # Vanilla takes the student alone
        "needs_index": takes_any or "num_data" in built_from or not {"index", "contrastive_index"}.isdisjoint(forward),
        "views": ("weak", "strong") if set(_VIEWS) & set(forward) else ("weak",),
    }
    register_distiller(f"{PREFIX}{name}")(type(f"upstream_{name}", (UpstreamMethod,), facts))
