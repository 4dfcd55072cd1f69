"""Seconds for one DeepKD training step, ours against the official way, resnet32x4 to resnet8x4, batch 64, fp32.

    python -m benchmarks.deepkd_step

The official way, written out below as a plain reference: probabilities and -1000 masks in the losses, three backward
passes, gradients set aside between them, an update tensor by tensor. Ours: DeepKD and DeepKDTrainer as ``train.py`` builds
them, dynamic top-k mask included. Both start from the same weights and take turns in one process. Before timing, the two are
checked to compute the same: with the release's rule, no mask and no weight decay (which the release takes from weights that
the step has already moved), the students agree in float64 after three steps.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdistiller_ext.data import InMemoryLoader
from mdistiller_ext.distillers import create_distiller
from mdistiller_ext.models import create_model
from mdistiller_ext.trainers.deepkd import DeepKDTrainer

MOMENTUM = {"task": 0.825, "target": 0.825, "nontarget": 0.975}  # as the release's optimizer uses them
LR, DECAY, TEMPERATURE, BETA = 0.05, 5e-4, 4.0, 8.0

Step = Callable[[Tensor, Tensor], object]


class OfficialStep:
    """DeepKD as released: three streams, three backward passes."""

    def __init__(self, student: nn.Module, teacher: nn.Module, decay: float) -> None:
        self.student, self.teacher, self.decay = student.train(), teacher.eval(), decay
        self.parameters = list(student.parameters())
        self.buffers: dict[str, list[Tensor]] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        logits, _ = self.student(images)
        with torch.no_grad():
            teacher, _ = self.teacher(images)
        target = F.one_hot(labels, logits.shape[1]).bool()
        p, q = (teacher / TEMPERATURE).softmax(1), (logits / TEMPERATURE).softmax(1)
        p_pair = torch.stack([p[target], (p * ~target).sum(1)], 1)
        q_pair = torch.stack([q[target], (q * ~target).sum(1)], 1)
        log_others = (logits / TEMPERATURE - 1000.0 * target).log_softmax(1)
        others = (teacher / TEMPERATURE - 1000.0 * target).softmax(1)
        losses = {
            "nontarget": BETA * F.kl_div(log_others, others, reduction="batchmean") * TEMPERATURE**2,
            "target": F.kl_div(q_pair.log(), p_pair, reduction="batchmean") * TEMPERATURE**2,
            "task": F.cross_entropy(logits, labels),
        }
        gradients: dict[str, list[Tensor]] = {}
        for name, loss in losses.items():
            for parameter in self.parameters:
                parameter.grad = None
            loss.backward(retain_graph=name != "task")
            gradients[name] = [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]
        with torch.no_grad():
            for name in ("task", "nontarget", "target"):
                for i, parameter in enumerate(self.parameters):
                    gradient = gradients[name][i]
                    if name == "target":
                        gradient = gradient.add(parameter, alpha=self.decay)
                    if name in self.buffers and i < len(self.buffers[name]):
                        self.buffers[name][i].mul_(MOMENTUM[name]).add_(gradient)
                    else:
                        self.buffers.setdefault(name, []).append(gradient.clone())
                    parameter.add_(self.buffers[name][i], alpha=-LR)


def our_trainer(
    student: nn.Module, teacher: nn.Module, loader: InMemoryLoader, *, decay: float, rule: str, dtm: bool
) -> DeepKDTrainer:
    student, teacher = (model.to(memory_format=torch.channels_last) for model in (student, teacher))  # as build does
    distiller = create_distiller("DEEPKD", student, teacher, t=TEMPERATURE, beta=BETA, warmup=1, dtm=dtm)
    distiller.train()
    return DeepKDTrainer(distiller, loader, loader, lr=LR, weight_decay=decay, stream_options={"rule": rule})


def check_agreement(student: nn.Module, teacher: nn.Module, loader: InMemoryLoader) -> float:
    """Largest relative difference of a weight tensor after three steps of both."""
    models = [copy.deepcopy(model).double() for model in (student, teacher, student, teacher)]
    official = OfficialStep(models[0], models[1], decay=0.0)
    ours = our_trainer(models[2], models[3], loader, decay=0.0, rule="official", dtm=False)
    batches = iter(loader)
    for _ in range(3):
        images, labels = next(batches)
        official(images.double(), labels)
        ours.train_step(images.double(), labels)
    pairs = zip(official.student.parameters(), ours.distiller.student.parameters(), strict=True)
    return max(((a - b).norm() / a.norm()).item() for a, b in pairs)


def seconds(step: Step, images: Tensor, labels: Tensor, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step(images, labels)
    return (time.perf_counter() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="pairs of measurements")
    parser.add_argument("--steps", type=int, default=2, help="steps in a measurement")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images = torch.randint(256, (256, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(100, (256,))
    loader = InMemoryLoader(images, labels, batch_size=64, mean=(0.5,) * 3, std=(0.25,) * 3)
    student, teacher = create_model("resnet8x4"), create_model("resnet32x4")
    print(f"{os.cpu_count()} CPU cores ({platform.processor() or platform.machine()}), torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}")
    difference = check_agreement(student, teacher, loader)
    print(f"largest relative difference of a weight tensor after 3 steps in float64: {difference:.1e}\n")

    official = OfficialStep(copy.deepcopy(student), copy.deepcopy(teacher), DECAY)
    ours = our_trainer(student, teacher, loader, decay=DECAY, rule="paper", dtm=True)
    batch = next(iter(loader))
    for step in (official, ours.train_step):
        seconds(step, *batch, repeats=3)  # warm-up, not counted
    print("round   official s/step   ours s/step   ratio")
    rows = []
    for number in range(1, arguments.rounds + 1):
        old, new = seconds(official, *batch, arguments.steps), seconds(ours.train_step, *batch, arguments.steps)
        rows.append((old, new, old / new))
        print(f"{number:5d}{old:18.3f}{new:14.3f}{old / new:8.2f}", flush=True)
    old, new, ratio = (statistics.median(column) for column in zip(*rows, strict=True))
    spread = [row[2] for row in rows]
    print(f"\nmedian: official {old:.3f} s, ours {new:.3f} s")
    print(f"ratio: median {ratio:.2f}, min {min(spread):.2f}, max {max(spread):.2f}, n = {len(rows)}")


if __name__ == "__main__":
    main()
