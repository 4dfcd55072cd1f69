"""Latency of networks that take turns, so that what else the machine does meets all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..acceleration import fold_batch_norm, place
from ..errors import ConfigError
from ..evaluate import try_images
from ..reporting.gains import Gain
from ..run.provenance import hardware, hardware_text

_SECONDS = 0.05  # of a timing: shorter calls are repeated
_WARM_UP = 3  # calls before the first timing: allocations, choice of algorithms


@dataclass(frozen=True)
class Timing:
    """How latency is measured.

    Attributes:
        device: where networks and images are.
        batch_sizes: images of a call.
        rounds: timings of each network; 0 for no measurement.
        fold: fold batch norms into convolutions first, where possible.
        channels_last: memory format.
    """

    device: torch.device
    batch_sizes: Sequence[int] = (1, 64)
    rounds: int = 20
    fold: bool = False
    channels_last: bool = True

    def gains(self, networks: str, student: nn.Module, teacher: nn.Module | None, size: int) -> Iterator[Gain]:
        """Latency (ms of a batch: median and quartiles over the rounds) and images per second.

        Networks run in eval mode, in float32, under ``torch.inference_mode``. The ratio is taken within each round.

        Args:
            networks: as in :class:`Gain`.
            size: edge of the images in pixels.
        """
        for batch_size in self.batch_sizes if self.rounds else ():
            images = torch.randn(batch_size, 3, size, size, device=self.device)
            images = images.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
            models = [self._ready(model, images) for model in (student, teacher) if model is not None]
            seconds = dict(zip(("student", "teacher"), np.array(round_times(models, images, self.rounds)), strict=False))
            ratio = {"ratio": seconds["teacher"] / seconds["student"]} if teacher is not None else {}
            latency = {role: 1e3 * times for role, times in seconds.items()}
            speed = {role: batch_size / times for role, times in seconds.items()}
            about: dict[str, Any] = {"batch_size": batch_size, "n": self.rounds, "measured_on": self.measured_on()}
            for quantity, unit, values in (("latency", "ms", latency), ("throughput", "images/s", speed)):
                yield Gain(networks=networks, quantity=quantity, unit=unit, **about, **_quartiles(values | ratio))

    def measured_on(self) -> str:
        """Device, hardware, threads, version, and how the networks run, in words."""
        found = hardware_text(hardware(self.device))
        memory = "channels-last" if self.channels_last else "contiguous"
        folded = "folded" if self.fold else "not folded"
        return f"{self.device.type}: {found}, torch {torch.__version__}, float32, {memory}, batch norm {folded}"

    def _ready(self, model: nn.Module, images: Tensor) -> nn.Module:
        """A network as it is measured. Raises ConfigError for a network that cannot be folded, or that rejects the images."""
        model = place(model, self.device, channels_last=self.channels_last).eval()
        try_images(model, images)
        if not self.fold:
            return model
        folded = fold_batch_norm(model, images)
        if folded is model:
            raise ConfigError(f"--fold: batch norms of {type(model).__name__} cannot be folded; measure it without")
        return folded


def round_times(networks: Sequence[nn.Module], images: Tensor, rounds: int) -> list[list[float]]:
    """Seconds that each network takes for a batch, in each round: a list for each network.

    In each round every network is timed once, in alternating order. A timing spans as many calls as take 0.05 s, and ends when
    the device has finished.

    Args:
        images: batch ``[N, 3, H, W]`` on the networks' device.
    """
    times: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        calls = []
        for network in networks:
            _seconds(network, images, _WARM_UP)
            calls.append(math.ceil(_SECONDS / _seconds(network, images, 1)))
        for number in tqdm(range(rounds), desc=f"latency, batch {len(images)}", disable=None, leave=False):
            order = list(range(len(networks)))
            for each in order if number % 2 == 0 else reversed(order):
                times[each].append(_seconds(networks[each], images, calls[each]))
    return times


def _seconds(network: nn.Module, images: Tensor, calls: int) -> float:
    """Seconds of a call, the mean of several."""
    _wait(images.device)
    start = time.perf_counter()
    for _ in range(calls):
        network(images)
    _wait(images.device)
    return (time.perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    """Wait until the device has finished; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _quartiles(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Median and quartiles by name, as fields of Gain."""
    fields = {}
    for name, each in values.items():
        fields[f"{name}_q1"], fields[name], fields[f"{name}_q3"] = np.percentile(each, [25, 50, 75]).round(6).tolist()
    return fields
