"""Memory that training needs, and memory that is available: a run that may not fit says so before its first step.

What is estimated is what a step needs besides what is in memory already (networks and data): a gradient and the momenta of each
weight, what autograd keeps of a batch for the backward pass, and the batch; times what the peaks of steps were measured to be
of that floor (benchmarks/memory.py). It does not count dataloader workers.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from .distillers import Distiller
from .distillers.progress import Progress
from .distributed import all_gather_object, world_size
from .evaluate import eval_mode

PEAK = 1.5
"""Peak of a step relative to the floor: of tensors it was 1.1 to 1.6, of a process with images of 224 pixels 1.5 to 1.6"""


def shortage(distiller: Distiller, image_shape: tuple[int, int, int], batch_size: int, streams: int) -> list[str]:
    """Return a note if a training step may need more memory than is available on the distiller's device; otherwise none.

    No estimate is made for a method whose steps change Python values, which a trial pass would change too.

    Args:
        image_shape: ``(C, H, W)``.
        batch_size: of all ranks.
        streams: number of momenta.
    """
    if not distiller.can_be_captured:
        return []
    device = next(distiller.parameters()).device
    available = min(all_gather_object(available_bytes(device)))  # the same on all ranks: they make the same trial passes
    batch = math.ceil(batch_size / world_size())
    needed = PEAK * step_floor(distiller, image_shape, batch, streams, enough=available / PEAK)
    if needed <= available:
        return []
    amounts = f"about {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available on this {device.type}"
    return [f"a step on {batch} images needs {amounts}: training may be killed; a smaller SOLVER.BATCH_SIZE needs less"]


def step_floor(distiller: Distiller, image_shape: tuple[int, int, int], batch: int, streams: int, enough: float = 0) -> int:
    """Return the bytes that a training step on ``batch`` images needs at least, besides networks and data.

    Args:
        enough: an upper bound will do if it is not above this; it takes two images of trial instead of five.
    """
    weights = sum(parameter.nbytes for parameter in distiller.learnable_parameters())
    images = 4 * math.prod(image_shape) * len(distiller.views)
    besides = (1 + streams) * weights + batch * images
    two = _kept_by_autograd(distiller, image_shape, 2)
    bound = besides + math.ceil(batch / 2) * two
    if bound <= enough:
        return bound
    per_image = _kept_by_autograd(distiller, image_shape, 3) - two  # the rest does not grow, such as weights in bfloat16
    return besides + two + (batch - 2) * per_image


def _kept_by_autograd(distiller: Distiller, image_shape: tuple[int, int, int], count: int) -> int:
    """Bytes that the graph of the losses of ``count`` black images refers to, without parameters, buffers and images."""
    weight = next(distiller.student.parameters())
    images = torch.zeros(count, *image_shape, device=weight.device, dtype=weight.dtype)
    if len(distiller.views) > 1:
        images = torch.stack([images] * len(distiller.views), dim=1)
    labels = torch.zeros(count, dtype=torch.long, device=weight.device)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # not itself: an operation that saves its own result would refer to itself, and leak

    devices = [weight.device] if weight.device.type == "cuda" else []
    with eval_mode(distiller), torch.random.fork_rng(devices), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        # The result is kept: memory of a released graph would be used again.
        graph = distiller(images, labels, Progress(1, 1, weight.device), labels if distiller.needs_index else None)
    for tensor in (images, *distiller.parameters(), *distiller.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    del graph
    return sum(kept.values())


def available_bytes(device: torch.device) -> float:
    """Return the bytes that this process can still get; infinite where the system does not tell (not Linux).

    Of the GPU; or of the machine and its control groups, divided by the ranks on the machine.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        limits = [1024 * _numbers(Path("/proc/meminfo"))["MemAvailable:"]]
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()]
    except (OSError, KeyError):
        return math.inf
    for _, controllers, path in groups:
        if controllers in ("", "memory"):
            folder = Path("/sys/fs/cgroup", controllers, path.lstrip("/"))
            limits += [limit for place in (folder, *folder.parents) if (limit := _available_to(place)) is not None]
    return min(limits) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _available_to(group: Path) -> int | None:
    """What the processes of a control group may still get, including the page cache that would be given up for it."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = (int((group / name).read_text(encoding="ascii")) for name in (limit, usage))
            return most - used + _numbers(group / "memory.stat")[cache]
        except (OSError, KeyError, ValueError):  # no such group, the other version of control groups, or no limit: "max"
            continue
    return None


def _numbers(file: Path) -> dict[str, int]:
    """Lines "name number" of a file."""
    words = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return {name: int(number) for name, number, *_ in words}
