"""Seconds for one DeepKD training step on the CPU, resnet32x4 to resnet8x4, batch 64: the official way, and ours part by part.

    python -m benchmarks.deepkd_step

The official way, written out below as a plain reference: probabilities and -1000 masks in the losses, three backward
passes, gradients set aside between them, an update tensor by tensor. Ours: the recipe of ``configs/``, built as ``train.py``
builds it, with what makes it fast taken away and put back one by one; each line adds to the line before
(bf16 to the folded teacher, where others stand between). With the teacher's cache, a step looks up the logits of random
crops in a full table. The last line is a step of KD with the base trainer and without the cache: what DeepKD itself costs.
All start from the same weights and take turns in one process. Before timing, the two ways are checked to compute the same:
with the release's rule and no mask, weight decay included, the students agree in float64 after three steps. Reading images
and testing are left out; see benchmarks.epoch.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from mdistiller_ext import acceleration
from mdistiller_ext.acceleration import has_bf16, place
from mdistiller_ext.config import hyper_parameters, load_config, solver_arguments, stream_options
from mdistiller_ext.data import InMemoryLoader, random_crop_flip
from mdistiller_ext.distillers import create_distiller
from mdistiller_ext.models import create_model
from mdistiller_ext.registry import TRAINERS
from mdistiller_ext.teacher_cache import CachedTeacherLoader, LogitTable
from mdistiller_ext.trainers.base import BaseTrainer

from .common import compare, hardware, our_loader, print_comparison, print_hardware, random_split, save

RECIPES = Path(__file__).parents[1] / "configs" / "cifar100"
MOMENTUM = {"task": 0.825, "target": 0.825, "nontarget": 0.975}  # as the release's optimizer uses them
LR, DECAY, TEMPERATURE, BETA = 0.05, 5e-4, 4.0, 8.0

BF16 = {"SOLVER.AMP": "bf16"}
COMPILE = {"SOLVER.COMPILE": True}
FOLDED = "+ folded teacher"  # the line that bf16 adds to, compiled or not


class OfficialStep:
    """DeepKD as released: three streams, three backward passes."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        self.student, self.teacher = student.train(), teacher.eval()
        self.parameters = list(student.parameters())
        self.buffers: dict[str, list[Tensor]] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step; the student's logits and the whole loss, for upstream's meters."""
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
                        gradient = gradient.add(parameter, alpha=DECAY)
                    if name in self.buffers and i < len(self.buffers[name]):
                        self.buffers[name][i].mul_(MOMENTUM[name]).add_(gradient)
                    else:
                        self.buffers.setdefault(name, []).append(gradient.clone())
                    parameter.add_(self.buffers[name][i], alpha=-LR)
        return logits.detach(), torch.stack(list(losses.values())).detach().sum()


def networks(student: str, teacher: str, loader: InMemoryLoader) -> tuple[nn.Module, nn.Module]:
    """Student and teacher, untrained; on the CPU in the usual layout.

    The teacher's batch norms have seen one batch: without it the logits of a deep network are too large to train towards.
    """
    pair = create_model(student, num_classes=loader.num_classes), create_model(teacher, num_classes=loader.num_classes)
    update_bn([tuple(tensor.cpu() for tensor in next(iter(loader)))], pair[1])
    return pair


def our_trainer(
    pair: tuple[nn.Module, nn.Module | None],
    train: InMemoryLoader,
    test: InMemoryLoader,
    settings: Mapping[str, Any],
    *,
    method: str = "deepkd",
    recipe: Path | None = None,
    merge: bool = True,
    accelerate: bool = True,
) -> BaseTrainer:
    """What ``train.py`` makes of a recipe of ours, with copies of ``pair`` on the device of ``train``.

    Args:
        settings: over the recipe's.
        method: the recipe's folder.
        recipe: another recipe; its networks count for nothing.
        merge: see BaseTrainer.
        accelerate: fold the teacher, and compile where that is set.
    """
    overrides = [item for setting in settings.items() for item in setting]
    config = load_config(recipe or RECIPES / method / "res32x4_res8x4.yaml", overrides)
    solver = config.SOLVER
    student, teacher = (
        network and place(copy.deepcopy(network), train.device, channels_last=solver.CHANNELS_LAST) for network in pair
    )
    assert student is not None
    name, trainer_name = config.DISTILLER.TYPE, config.SOLVER.TRAINER
    distiller = create_distiller(name, student, teacher, **hyper_parameters(config, name)).to(train.device)
    trainer: BaseTrainer = TRAINERS.get(trainer_name)(
        distiller, train, test, **solver_arguments(config), merge=merge, stream_options=stream_options(config, trainer_name)
    )
    if accelerate:
        options = {"fold_teacher": solver.FOLD_TEACHER, "compile_networks": solver.COMPILE}
        for note in acceleration.accelerate(distiller, train.image_shape, **options):
            print(note)
    distiller.train()
    return trainer


def check_agreement(pair: tuple[nn.Module, nn.Module], loader: InMemoryLoader) -> float:
    """Largest relative difference of a weight tensor after three steps of both in float64."""
    student, teacher = (copy.deepcopy(network).double() for network in pair)
    release = {
        "SOLVER.DEEPKD.RULE": "official",
        "DEEPKD.DTM": False,
        "DEEPKD.WARMUP": 1,
    }
    # Not accelerated: that tries the teacher with float32.
    ours = our_trainer((student, teacher), loader, loader, release, accelerate=False)
    official = OfficialStep(student, teacher)
    batches = iter(loader)
    for _ in range(3):
        images, labels = next(batches)
        official(images.double(), labels)
        ours.train_step(images.double(), labels)
    both = zip(official.student.parameters(), ours.distiller.student.parameters(), strict=True)
    return max(((a - b).norm() / a.norm()).item() for a, b in both)


def cached_step(
    pair: tuple[nn.Module, nn.Module], split: tuple[Tensor, Tensor], batch_size: int, settings: Mapping[str, Any]
) -> Callable[[Tensor, Tensor], object]:
    """A step with the teacher's logits from a full cache, on a batch of its own."""
    loader = our_loader(split, training=True, batch_size=batch_size, with_view=True)
    trainer = our_trainer(pair, loader, loader, settings)
    rows, device = len(loader.images) * random_crop_flip.views, loader.device
    table = LogitTable.empty(rows, loader.num_classes, torch.float32, device)
    cache = CachedTeacherLoader(loader, lambda images: trainer.distiller.teacher_output(images).logits, table)
    images, labels, index, view = next(iter(loader))

    def step(*_: Tensor) -> object:
        return trainer.train_step(images, labels, index, cache.look_up(index, view, images))

    return step


def variants(
    pair: tuple[nn.Module, nn.Module], split: tuple[Tensor, Tensor], loader: InMemoryLoader, *, compiled: bool
) -> dict[str, Callable[[Tensor, Tensor], object]]:
    """The steps to compare, by what each adds to the one before."""

    def ours(settings: Mapping[str, Any], **options: Any) -> Callable[[Tensor, Tensor], object]:
        return our_trainer(pair, loader, loader, settings, **options).train_step

    nchw = {"SOLVER.CHANNELS_LAST": False}
    full: dict[str, Any] = {}
    steps: dict[str, Callable[[Tensor, Tensor], object]] = {
        "official way": OfficialStep(*copy.deepcopy(pair)),
        "ours, streams not merged, nchw": ours(nchw, merge=False, accelerate=False),
        "+ merged streams": ours(nchw, accelerate=False),
        "+ channels_last": ours(full, accelerate=False),
        FOLDED: ours(full),
        "+ teacher cache": cached_step(pair, split, loader.batch_size, full),
    }
    if compiled:
        full = COMPILE
        steps["+ compile"] = ours(full)
    if has_bf16(torch.device("cpu")):
        full = full | BF16
        steps["+ bf16"] = ours(BF16)
        steps["+ bf16, + teacher cache"] = cached_step(pair, split, loader.batch_size, BF16)
        if compiled:
            steps["+ bf16, + compile"] = ours(full)
    steps["KD, base trainer, no cache"] = ours(full, method="kd")
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1, help="steps in a measurement")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile: some minutes more")
    arguments = parser.parse_args()

    facts = hardware()
    print_hardware(facts)
    torch.manual_seed(0)
    split = random_split(3 * arguments.batch)
    loader = our_loader(split, training=False, batch_size=arguments.batch)
    pair = networks(arguments.student, arguments.teacher, loader)
    difference = check_agreement(pair, loader)
    print(f"largest relative difference of a weight tensor after 3 steps in float64: {difference:.1e}\n", flush=True)

    batch = next(iter(loader))

    def repeated(step: Callable[[Tensor, Tensor], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(arguments.steps):
                step(*batch)

        return run

    steps = {name: repeated(step) for name, step in variants(pair, split, loader, compiled=arguments.compile).items()}
    after = {"+ compile": FOLDED, "+ bf16": FOLDED}
    rows = compare(steps, arguments.rounds, per=arguments.steps, after=after)
    print_comparison(rows, f"a step, {arguments.teacher} to {arguments.student}, batch {arguments.batch}")
    save("deepkd_step", facts, {**vars(arguments), "difference": difference, "rows": rows})


if __name__ == "__main__":
    main()
