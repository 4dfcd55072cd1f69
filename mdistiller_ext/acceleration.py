"""Where and how fast networks run: device, memory layout, bfloat16, ``torch.compile``, and a folded copy of the teacher.

In the copy, each batch norm is folded into the convolution before it, and weights may be bfloat16: it computes the same logits
up to rounding. It cannot be trained or saved, and does not call the forward hooks of the original.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from .distillers import Distiller
from .distributed import launched, local_rank
from .errors import ConfigError, listing
from .models.adapter import Adapter

# Largest difference that folding may make, relative to the largest logit. Folding reorders roundings of 1e-7; an incorrect
# fold changes the logits entirely.
_TOLERANCE = 1e-3


def choose_device(name: str) -> torch.device:
    """Device by name. ``auto`` is CUDA, else MPS, else the CPU; with several processes, each rank has its own GPU.

    Raises ConfigError if the device cannot compute, or cannot be shared by several processes.
    """
    several = launched()[1] > 1
    if name in ("auto", "cuda") and several and torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(f"torchrun started more processes than this machine's {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(local_rank())
        return torch.device("cuda", local_rank())
    if name != "auto":
        try:
            device = torch.device(name)
            torch.ones(1, device=device).add(1).item()  # tensors of the device "meta" have no values
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = str(error).splitlines()[0].split(". ")[0][:200]
            raise ConfigError(f"SOLVER.DEVICE {name} cannot be used: {reason}") from error
        if several and device.type != "cpu":
            raise ConfigError(f"SOLVER.DEVICE {name} is one device; with torchrun it must be cuda (one each) or cpu")
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # random generators and graph captures use the current device
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() and not several else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        if hasattr(torch.cpu, "get_capabilities"):
            return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        cpuinfo = Path("/proc/cpuinfo")  # an older torch has no public query
        return cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text(encoding="utf-8")
    return True


def place(model: nn.Module, device: torch.device, *, channels_last: bool) -> nn.Module:
    """Move a network to a device, in the given memory layout."""
    return model.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def accelerate(
    distiller: Distiller,
    image_shape: tuple[int, int, int],
    *,
    fold_teacher: bool = True,
    compile_networks: bool = False,
    hooks: Collection[int] = (),
) -> list[str]:
    """Run a copy of the teacher that is prepared for inference, and compile networks.

    Args:
        image_shape: ``(3, H, W)``.
        fold_teacher: fold the batch norms of the copy.
        compile_networks: compile the copy and, except on CPUs, the student.
        hooks: identifiers of the forward hooks that the teacher was built with (see :func:`forward_hooks`), as networks of
            torchvision are. If the teacher has others, added by the method, no copy is made, as it would not call them.

    Returns:
        Notes on what is not done, and why. Without bfloat16 instructions, autocast is disabled.

    Raises ConfigError for a method with such hooks whose teacher is cached.
    """
    notes = []
    device = next(distiller.parameters()).device
    if distiller.autocast is not None and not has_bf16(device):
        distiller.autocast = None
        notes.append(f"SOLVER.AMP bf16: this {device.type} computes no bfloat16; off")
    teacher, accelerated = distiller.teacher, None
    changed = fold_teacher or compile_networks or distiller.autocast is not None
    if teacher is not None and (changed or distiller.teacher_is_cached):
        hooked = [name or "root module" for hook, name in forward_hooks(teacher.named_modules()).items() if hook not in hooks]
        if hooked and distiller.teacher_is_cached:
            raise ConfigError(
                f"the method has forward hooks on the teacher's {listing(dict.fromkeys(hooked))}, which are not called where "
                "DISTILLER.TEACHER_CACHE has its logits: set it to off"
            )
        if hooked:
            notes.append(
                "the teacher runs unfolded, in float32 and not compiled: the method has forward hooks on its "
                f"{listing(dict.fromkeys(hooked))}"
            )
        elif changed:
            images = next(teacher.parameters()).new_zeros(2, *image_shape)
            accelerated = InferenceNetwork(teacher, images, distiller.autocast, fold=fold_teacher)
            distiller.inference_path = InferencePath(teacher, accelerated)
    if compile_networks:
        try:
            torch.compile(torch.sin)(torch.zeros(2, device=device))
        except Exception as error:  # no C++ compiler, no Triton, an unsupported GPU: exceptions of many types
            why = (str(error) or type(error).__name__).splitlines()[0]
            notes.append(f"SOLVER.COMPILE: torch cannot compile here ({why}); off")
        else:
            # Backward passes of several streams share a graph, so the first must not release its buffers. torch's error
            # message for this case names this setting; torch.compile has no option for it.
            from torch._functorch import config as functorch_config  # slow to import

            functorch_config.donated_buffer = False
            # Compilation did not make the student faster on CPUs (benchmarks/README.md).
            student = distiller.student if device.type != "cpu" else None
            for model in filter(None, (student, accelerated)):
                model.compile(dynamic=False)
    return notes


class InferenceNetwork(nn.Module):
    """A frozen network prepared for inference. Logits have the dtype of the images, whatever dtype it computes in.

    Args:
        model: a network in eval mode, whose parameters require no gradient; it is not changed.
        images: a batch ``[N, 3, H, W]`` on its device, to verify the folding with.
        dtype: dtype of the weights and the computation; None keeps the network's.
        fold: fold batch norms where possible.
    """

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype | None = None, *, fold: bool = True) -> None:
        super().__init__()
        network = fold_batch_norm(model, images) if fold else model
        if dtype is not None:
            network = (copy.deepcopy(model) if network is model else network).to(dtype)
        self.network = network.requires_grad_(False).eval()
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Logits ``[N, C]`` and features of images ``[N, 3, H, W]``."""
        logits, features = self.network(images if self.dtype is None else images.to(self.dtype))
        return logits.to(images.dtype), features


class InferencePath:
    """Select an InferenceNetwork, or the original network if forward hooks have been registered on it since.

    Not a module, so that a distiller's ``state_dict()`` and ``named_parameters()`` contain neither network a second time.
    """

    def __init__(self, model: nn.Module, accelerated: InferenceNetwork) -> None:
        self.model = model
        self.accelerated = accelerated
        self._modules = list(model.named_modules())
        self._hooks = forward_hooks(self._modules).keys()

    def __call__(self) -> nn.Module:
        """The network to run."""
        return self.accelerated if forward_hooks(self._modules).keys() == self._hooks else self.model


def forward_hooks(modules: Iterable[tuple[str, nn.Module]]) -> dict[int, str]:
    """The forward hooks and forward pre-hooks of named modules: identifier -> name of the module.

    torch has no public way to list the hooks of a module; the only use of its private dictionaries is here.
    """
    return {hook: name for name, module in modules for hook in (*module._forward_hooks, *module._forward_pre_hooks)}


def fold_batch_norm(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network in eval mode in which each batch norm that follows a convolution is folded into it.

    The copy is verified on ``images``. The network itself is returned if it cannot be traced, if the copy gives another
    result, or if it has forward hooks, which tracing drops.
    """
    if forward_hooks(model.named_modules()):
        return model
    with torch.no_grad():
        before = model(images)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch.fx, about the traced code
                folded: nn.Module = fuse(model.network if isinstance(model, Adapter) else model)
            if isinstance(model, Adapter):  # whose hooks would not be traced
                folded = model.around(folded)
            after = folded(images)
        except Exception:  # tracing runs the network's own code on proxies: any exception is possible
            return model
    return folded if _same(before, after) else model


def _same(before: Any, after: Any) -> bool:
    """Whether two outputs agree in structure and, up to rounding, in values."""
    if isinstance(before, Tensor):
        if not isinstance(after, Tensor) or before.shape != after.shape:
            return False
        return bool((before - after).abs().max() <= _TOLERANCE * before.abs().max().clamp(min=1e-6))
    if isinstance(before, dict):
        return isinstance(after, dict) and before.keys() == after.keys() and all(_same(before[k], after[k]) for k in before)
    if isinstance(before, tuple | list):
        same_length = isinstance(after, tuple | list) and len(before) == len(after)
        return same_length and all(_same(a, b) for a, b in zip(before, after, strict=True))
    return bool(before == after)
