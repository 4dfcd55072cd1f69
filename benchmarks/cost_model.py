"""A model of the training step on 8 and 64 GPUs: how much of it the exchange of gradients takes, and what buckets gain.

    python -m benchmarks.cost_model

No GPU is used: operations are counted on tensors without values, rates and bandwidths are published ones (MACHINES, with
their sources). One minute.

A GPU with n images computes the teacher's forward pass, the student's, and a backward pass for each of S streams; each takes
its operations (torch's counter: convolutions and matrix products, two for each multiplication with addition) divided by one
rate R. R is that of a published run on a single GPU: images per second times the counted operations of ResNet-50's training.
So it contains everything that is not counted, in the proportion of ResNet-50.

An all-reduce of b bytes over g GPUs takes L + 2 (g - 1) / g * b / B: a ring, in which each GPU sends every byte once to be
summed and once to be distributed. B is the bandwidth of the slowest link of the ring, as NCCL's tests define it (`busbw`), L
the time of an all-reduce of a few bytes. All-reduces follow one another on the link and take nothing from the computation.

A gradient is ready when the operations before it in the backward pass are done, in the order in which autograd accumulates
gradients here. Two ways to exchange those of a stream are compared:

- `whole`: one all-reduce after the backward pass, which overlaps the next stream's; that of the last stream is exposed;
- `buckets`: an all-reduce as soon as the gradients of a bucket (gradient_exchange.gradient_buckets) are ready.

The exposed time is that between the last backward pass and the last all-reduce; efficiency is computation / (computation +
exposed time). What the model leaves out: launches of kernels, which bound small networks and batches (the exchange's share is
then smaller than stated), memory traffic of batch norm and depthwise convolutions (likewise, for MobileNet), the copies into
buckets, all-reduces that slow the computation, and waiting for the slowest GPU.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mdistiller_ext.models import create_model
from mdistiller_ext.trainers.gradient_exchange import gradient_buckets

from .common import hardware, print_hardware, print_table, save

PAYS = 0.05  # buckets that save this part of a step are marked by *
SIZES = (4, 8, 16, 25)  # of buckets, in MiB
RESNET50 = "https://github.com/NVIDIA/DeepLearningExamples/tree/master/PyTorch/Classification/ConvNets/resnet50v1.5"


@dataclass(frozen=True)
class Machine:
    """GPUs and the slowest link between them.

    Attributes:
        images: per second, of ResNet-50's training at 224 pixels in mixed precision on one GPU.
        bandwidth: of a ring, in bytes per second (`busbw` of NCCL's tests).
        latency: of an all-reduce of a few bytes, in seconds.
    """

    name: str
    gpus: int
    bandwidth: float
    latency: float
    source: str
    images: float = 2470  # A100 80 GB: RESNET50


MACHINES = (
    Machine("NVLink 3", 8, 232e9, 20e-6, "measured: github.com/NVIDIA/nccl/issues/1048"),
    Machine("NVLink 4, GPU of 2.5 x A100", 8, 370e9, 20e-6, "measured: github.com/NVIDIA/nccl-tests/issues/212", 2.5 * 2470),
    Machine("PCIe 4, one root", 8, 24e9, 40e-6, "NCCL's own estimate of a link: github.com/NVIDIA/nccl-tests/issues/307"),
    Machine("PCIe 4, two sockets", 8, 10e9, 40e-6, "NCCL's own estimate of a link: github.com/NVIDIA/nccl-tests/issues/307"),
    Machine("4 x HDR a machine", 64, 86e9, 65e-6, "measured: github.com/NVIDIA/nccl/issues/1048; latency: issues/652"),
    Machine("1 x HDR a machine", 64, 24e9, 65e-6, "measured: github.com/NVIDIA/nccl/issues/1048; latency: issues/652"),
    Machine("25 GbE", 64, 25e9 / 8, 100e-6, "line rate; the latency is assumed"),
)


@dataclass(frozen=True)
class Pair:
    """A teacher, a student and the global batch of the recipe, or ``local`` images on each GPU."""

    teacher: str
    student: str
    zoo: str = "imagenet"
    size: int = 224
    batch: int = 512
    local: bool = False

    def images(self, gpus: int) -> int:
        return self.batch if self.local else math.ceil(self.batch / gpus)

    def __str__(self) -> str:
        names = (name.removeprefix("torchvision/") for name in (self.teacher, self.student))
        return f"{' to '.join(names)}, {self.batch}{' a GPU' if self.local else ''}"


PAIRS = (
    Pair("resnet32x4", "resnet8x4", "cifar100", 32, 64),
    Pair("ResNet34", "ResNet18"),
    Pair("ResNet34", "ResNet18", batch=64, local=True),
    Pair("ResNet50", "MobileNetV1"),
    Pair("ResNet152", "ResNet50"),
    Pair("torchvision/vit_l_16", "torchvision/vit_b_16"),
)


@dataclass(frozen=True)
class Counted:
    """Operations of an image.

    Attributes:
        ready: those of the backward pass before a parameter's gradient.
    """

    forward: float
    backward: float
    parameters: list[Tensor]
    ready: dict[Tensor, float]

    @property
    def bytes(self) -> int:
        return sum(p.nbytes for p in self.parameters)


def count(name: str, zoo: str, size: int) -> Counted:
    """Operations of a network for an image; nothing is computed."""
    with torch.device("meta"):
        network = create_model(name, dataset=zoo, image_size=size)
        images = torch.zeros(2, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        logits, _ = network(images)
        forward = counter.get_total_flops()
        ready: dict[Tensor, float] = {}
        for p in network.parameters():
            p.register_post_accumulate_grad_hook(
                lambda p: ready.__setitem__(p, (counter.get_total_flops() - forward) / len(images))
            )
        logits.sum().backward()
        total = counter.get_total_flops()
    return Counted(forward / len(images), (total - forward) / len(images), list(network.parameters()), ready)


def exposed(student: Counted, rate: float, machine: Machine, streams: int, buckets: Sequence[Sequence[Tensor]]) -> float:
    """Seconds between the end of the last backward pass and that of the last all-reduce.

    Args:
        rate: operations per second, of an image: divided by the number of images.
        buckets: gradients that are exchanged together, each once all of it and all before it are ready.
    """
    free = 0.0  # when the link is free
    for stream in range(streams):
        ready = stream * student.backward
        for bucket in buckets:
            ready = max(ready, stream * student.backward + max(student.ready[p] for p in bucket))
            sent = 2 * (machine.gpus - 1) / machine.gpus * sum(p.nbytes for p in bucket)
            free = max(free, ready / rate) + machine.latency + sent / machine.bandwidth
    return free - streams * student.backward / rate


def estimate(
    pair: Pair, machine: Machine, streams: int, teacher: Counted, student: Counted, resnet50: Counted
) -> dict[str, Any]:
    """A step in seconds: computation, and what is exposed of the exchange in both ways.

    ``saved`` is the part of a step with whole exchanges that buckets save, by their size in MiB.
    """
    rate = machine.images * (resnet50.forward + resnet50.backward) / pair.images(machine.gpus)
    computation = (teacher.forward + student.forward + streams * student.backward) / rate
    whole = exposed(student, rate, machine, streams, [student.parameters])
    bucketed = exposed(student, rate, machine, streams, gradient_buckets(student.parameters))
    sizes = {
        size: exposed(student, rate, machine, streams, gradient_buckets(student.parameters, size * 2**20)) for size in SIZES
    }
    return {
        "pair": str(pair),
        "machine": machine.name,
        "gpus": machine.gpus,
        "images_a_gpu": pair.images(machine.gpus),
        "streams": streams,
        "megabytes": student.bytes / 1e6,
        "computation": computation,
        "exposed": {"whole": whole, "buckets": bucketed},
        "efficiency": {"whole": computation / (computation + whole), "buckets": computation / (computation + bucketed)},
        "saved": {size: (whole - found) / (computation + whole) for size, found in sizes.items()},
    }


def pays_below(pair: Pair, gpus: int, teacher: Counted, student: Counted, resnet50: Counted) -> float:
    """Bandwidth in bytes per second at which the last of two whole exchanges takes PAYS of a step; latency is left out."""
    link = Machine("", gpus, math.inf, 0, "")
    computation: float = estimate(pair, link, 2, teacher, student, resnet50)["computation"]
    return 2 * (gpus - 1) / gpus * student.bytes / (computation * PAYS / (1 - PAYS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    facts = hardware()
    print_hardware(facts)
    resnet50 = count("ResNet50", "imagenet", 224)
    rows, limits = [], {}
    for pair in PAIRS:
        teacher, student = (count(name, pair.zoo, pair.size) for name in (pair.teacher, pair.student))
        found = [estimate(pair, machine, n, teacher, student, resnet50) for machine in MACHINES for n in (1, 2, 3)]
        rows += found
        cells = [
            [
                f"{row['gpus']} x {row['machine']}",
                str(row["images_a_gpu"]),
                str(row["streams"]),
                f"{1e3 * row['computation']:.2f}",
                *(f"{1e3 * row['exposed'][way]:.2f}" for way in ("whole", "buckets")),
                *(f"{row['efficiency'][way]:.0%}" for way in ("whole", "buckets")),
                *(f"{saved:.1%}" + (" *" if saved >= PAYS else "  ") for saved in row["saved"].values()),
            ]
            for row in found
        ]
        limits[str(pair)] = pays_below(pair, 8, teacher, student, resnet50)
        print(f"{pair}: {student.bytes / 1e6:.1f} MB of gradients in {len(gradient_buckets(student.parameters))} buckets,")
        print(f"8 A100, 2 streams: a whole exchange takes {PAYS:.0%} of a step at {limits[str(pair)] / 1e9:.0f} GB/s")
        header = [
            "GPUs",
            "images each",
            "streams",
            "computation ms",
            "exposed ms: whole",
            "buckets",
            "efficiency: whole",
            "buckets",
        ]
        print_table([*header, f"saved: {SIZES[0]} MiB", *(f"{size} MiB" for size in SIZES[1:])], cells)
    machines = [asdict(machine) for machine in MACHINES]
    save("cost_model", facts, {"rate": RESNET50, "machines": machines, "pays_below": limits, "rows": rows})


if __name__ == "__main__":
    main()
