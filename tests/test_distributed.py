"""Several processes compute what one would: weights, losses, accuracy.

Long, since every part is tried with the networks and data below, in one pool of processes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdistiller_ext import build, checkpoint, fetch, weight_files
from mdistiller_ext.config import load_config
from mdistiller_ext.data import DataIdentity, InMemoryLoader
from mdistiller_ext.data.identity import SplitIdentity
from mdistiller_ext.distillers import Distiller, Output, Progress, create_distiller
from mdistiller_ext.distributed import (
    AsyncAnyReduce,
    all_gather_rows,
    all_reduce_sum,
    local_batch_sizes,
    rank,
    world_size,
)
from mdistiller_ext.errors import Stopped
from mdistiller_ext.evaluate import evaluate
from mdistiller_ext.registry import TRAINERS
from mdistiller_ext.run import RunIdentity
from mdistiller_ext.trainers import BaseTrainer
from mdistiller_ext.trainers.gradient_exchange import GradientExchange
from mdistiller_ext.trainers.recorder import Recorder
from tests.support.processes import Processes
from tests.support.runs import MEASURED, assert_identical
from tests.support.server import Server

CLASSES = 10
LARGEST = "largest difference of a weight between one process and several after 20 steps in float64"
# name -> trainer, its options and the number of streams; every trainer, merged streams and three
STREAMS: dict[str, tuple[str, dict[str, Any], int]] = {
    "base": ("base", {}, 1),
    "dot": ("dot", {}, 2),
    "deepkd merged": ("deepkd", {}, 2),
    "deepkd": ("deepkd", {"delta_tog": 0.05}, 3),
}
METHODS: dict[str, dict[str, Any]] = {
    "KD": {},
    "LSKD": {},
    "DKD": {"warmup": 1},
    "DEEPKD": {"phase_ends": (1, 2)},
    "GDKD": {"topk": 3},
    "GDKD3": {"topk": 3},
    "DIST": {},
    "DIST apart": {"gather": False},
    "PRKD": {"correlation": "inter+intra", "average_last": 1},
    "NONE": {},
    "RKD": {},
    "SP": {"feat_weight": 30.0},
    "PKT": {"feat_weight": 300.0},
    "CRD": {"dim": 8, "k": 20, "feat_weight": 0.1},
    "MLKD": {"temperature": 1.0},
    "CRLD": {"tau_w": 0.2},
    "MLKD deepkd": {"rule": "deepkd", "warmup": 1},
    "CRLD deepkd": {"rule": "deepkd", "warmup": 1, "tau_w": 0.2},
}


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes()
    yield pool
    pool.close()


class Network(nn.Module):
    """Two convolutions and a classifier in double precision, with batch norm or without."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.norm1, self.norm2 = (nn.BatchNorm2d(6), nn.BatchNorm2d(8)) if batch_norm else (nn.Identity(), nn.Identity())
        self.fc = nn.Linear(8, CLASSES)
        self.double()

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        first = self.norm1(self.conv1(images)).relu()
        second = self.norm2(self.conv2(first)).relu()
        pooled = second.mean(dim=(2, 3))
        return self.fc(pooled), {"feats": [first, second], "pooled_feat": pooled}


class DoubleLoader(InMemoryLoader):
    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return ((images.double(), *others) for images, *others in super().__iter__())


def two_views(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.stack([images, images.flip(3)], dim=1)


def loaders(method: type[Distiller] = Distiller) -> tuple[DoubleLoader, DoubleLoader]:
    """10 batches of 16 an epoch, as the method needs them, the last of 2 images: with 4 processes two have none."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (146, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (146,), generator=generator)
    same: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "num_classes": CLASSES}
    same |= {"rank": rank(), "world_size": world_size()}
    augment = two_views if len(method.views) > 1 else None
    options: dict[str, Any] = {"augment": augment, "with_index": method.needs_index} | same
    train = DoubleLoader(images, labels, batch_size=16, shuffle=True, seed=3, **options)
    return train, DoubleLoader(images[:33], labels[:33], batch_size=10, **same)


def make_trainer(streams: str, method: str, batch_norm: bool, **keywords: Any) -> BaseTrainer:
    torch.manual_seed(1)
    student, teacher = Network(batch_norm), Network(batch_norm)
    for p in teacher.parameters():  # of another opinion, and sure of it
        p.data.mul_(1.5)
    trainer, options, _ = STREAMS[streams]
    settings = {"epochs": 2, "lr": 0.05, "weight_decay": 5e-3, "lr_scheduler": "onecycle", "stream_options": options} | keywords
    distiller = create_distiller(method.split()[0], student, None if method == "NONE" else teacher, **METHODS[method])
    made: BaseTrainer = TRAINERS.get(trainer)(distiller, *loaders(type(distiller)), **settings)
    return made


def train(streams: str, method: str, batch_norm: bool) -> dict[str, Any]:
    """Twenty steps; what they made."""
    trainer = make_trainer(streams, method, batch_norm)
    assert len(trainer.active_streams) == STREAMS[streams][2]
    summary = trainer.train()
    made = {"student": trainer.distiller.student.state_dict(), "own": trainer.distiller.own_state_dict()}
    return made | {"history": trainer.history, "summary": summary, "optimizer": trainer.optimizer.state_dict()}


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    """Nested results agree; times apart."""
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"processes", *MEASURED}:
            assert_close(found[key], expected[key], tolerance)
    elif isinstance(expected, list):
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
    else:
        assert found == expected


def fits(streams: str, method: str) -> bool:
    if method.endswith("deepkd"):
        return streams == "deepkd"
    if method in ("NONE", "RKD", "SP", "PKT", "CRD", "MLKD"):
        return streams == "base"
    return not (streams.startswith("deepkd") and method[:4] in ("DIST", "PRKD"))


PAIRS = [
    (streams, method)
    for streams, method in itertools.product(STREAMS, METHODS)
    if fits(streams, method) and method != "DIST apart"
]


def is_one_of_its_kind(streams: str, method: str) -> bool:
    """Whether a pair is needed for every method to have a trainer, and every trainer a method."""
    return streams == "base" or method == "DKD" or not fits("base", method)


@functools.cache
def train_alone(streams: str, method: str) -> dict[str, Any]:
    return train(streams, method, False)


@pytest.mark.parametrize(
    ("streams", "method", "count"), [(*pair, 2) for pair in PAIRS] + [(*pair, 4) for pair in PAIRS if is_one_of_its_kind(*pair)]
)
def test_several_processes_train_the_weights_of_one(
    processes: Processes, streams: str, method: str, count: int, figures: dict[str, float]
) -> None:
    """Twenty steps without batch norm, in float64: weights, momenta, losses, accuracies, PRKD's average."""
    alone = dict(train_alone(streams, method))
    together = processes(count, train, streams, method, False)
    momenta = alone.pop("optimizer")
    for result in together:
        assert_close(result.pop("optimizer"), momenta, 1e-8)  # up to 250 with DIST
        assert_close(result, alone, 1e-10)
        assert all(torch.equal(value, together[0]["student"][name]) for name, value in result["student"].items())
    apart = max(float((together[0]["student"][name] - value).abs().max()) for name, value in alone["student"].items())
    figures[LARGEST] = max(figures[LARGEST], apart)
    start = make_trainer(streams, method, False).distiller.student.state_dict()
    assert max(float((value - start[name]).abs().max()) for name, value in alone["student"].items()) > 1e-2


def record_gradients(method: str) -> dict[str, Any]:
    """The records of twenty steps, in windows of 8, 8 and 4 samples."""
    records = {"record": ("gsnr", "conflict"), "record_every": 1, "record_window": 8}
    trainer = make_trainer("deepkd", method, False, **records)
    trainer.train()
    return dict(trainer.state.state_dict()["records"])


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_record_the_gradients_of_one(processes: Processes, count: int) -> None:
    alone = record_gradients("DKD")
    assert alone["windows"]["samples"].tolist() == [8, 8, 4]
    for found in processes(count, record_gradients, "DKD"):
        assert_close(found, alone, 1e-10)


def train_by_rank(streams: str, method: str, count: int) -> dict[str, Tensor]:
    """What ``count`` processes do, written down for one: each part of a batch alone, buffers those of the first."""
    trainer = make_trainer(streams, method, True)
    distiller, optimizer = trainer.distiller.train(), trainer.optimizer
    for epoch in (1, 2):
        trainer.train_loader.set_epoch(epoch)
        trainer.progress.set_epoch(epoch)
        for images, labels in trainer.train_loader:
            weights = list(distiller.student.parameters())
            sums = {stream.name: [torch.zeros_like(p) for p in weights] for stream in trainer.active_streams}
            for part in range(count):
                buffers = [b.clone() for b in distiller.buffers()]
                rows = slice(part, None, count)
                if not len(labels[rows]):
                    continue
                _, losses = distiller(images[rows], labels[rows], trainer.progress)
                for stream in trainer.active_streams:
                    loss = torch.stack([value for name, value in losses.items() if name.split("/")[0] in stream.roles]).sum()
                    gradients = torch.autograd.grad(loss, weights, retain_graph=True)
                    for total, gradient in zip(sums[stream.name], gradients, strict=True):
                        total += gradient * (len(labels[rows]) / len(labels))
                if part:
                    for buffer, first in zip(distiller.buffers(), buffers, strict=True):
                        buffer.copy_(first)
            for name, totals in sums.items():
                for p, total in zip(weights, totals, strict=True):
                    p.grad = total
                optimizer.absorb(name)
            optimizer.step()
            trainer.scheduler.step()
    return distiller.student.state_dict()


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    ("streams", "method"), [("base", "KD"), ("dot", "DIST apart"), ("deepkd", "DKD"), ("deepkd merged", "DEEPKD")]
)
def test_batch_norm_sees_its_own_part_and_the_first_process_keeps_the_statistics(
    processes: Processes, streams: str, method: str, count: int
) -> None:
    reference = train_by_rank(streams, method, count)
    for result in processes(count, train, streams, method, True):
        assert_close(result["student"], reference, 1e-10)


def train_full_batches(with_ddp: bool) -> dict[str, Tensor]:
    """Two epochs of plain training on batches of which all processes have an equal part: DDP knows no other."""
    trainer = make_trainer("base", "NONE", True)
    student = trainer.distiller.student.train()
    model: nn.Module = DistributedDataParallel(student) if with_ddp else student
    for epoch in (1, 2):
        trainer.train_loader.set_epoch(epoch)
        for images, labels in itertools.islice(trainer.train_loader, 9):
            if with_ddp:
                nn.functional.cross_entropy(model(images)[0], labels).backward()
                trainer.optimizer.step()
            else:
                trainer.train_step(images, labels)
            trainer.scheduler.step()
    return {name: value for name, value in student.state_dict().items() if with_ddp or rank() == 0 or "running" not in name}


def test_a_single_stream_is_torchs_distributed_data_parallel(processes: Processes) -> None:
    ddp, ours = (processes(2, train_full_batches, with_ddp) for with_ddp in (True, False))
    assert_close(ours[0], ddp[0], 1e-12)


# ---- the parts ----------------------------------------------------------------------------------------------------


def test_shares_cover_a_batch_and_differ_by_one_at_most(processes: Processes) -> None:
    assert processes(4, local_batch_sizes, 10) == [[3, 3, 2, 2]] * 4
    assert processes(4, local_batch_sizes, 2) == [[1, 1, 0, 0]] * 4
    assert local_batch_sizes(7) == [7]


def gather_and_square() -> tuple[Tensor, Tensor, Tensor]:
    sizes = [2, 0]
    rows = torch.tensor([[1.0], [2.0]] if rank() == 0 else [[9.0]], dtype=torch.float64, requires_grad=True)
    everything = all_gather_rows(rows, sizes)
    (everything.square().sum() * sizes[rank()] / 2).backward()  # weighted as the trainer does
    assert rows.grad is not None
    return everything.detach(), rows.grad, all_reduce_sum(rows.grad.sum())


def test_gathered_rows_are_those_that_count_and_gradients_go_home(processes: Processes) -> None:
    (everything, gradient, total), (same, nothing, _) = processes(2, gather_and_square)
    assert everything.tolist() == same.tolist() == [[1.0], [2.0]]
    assert gradient.tolist() == [[2.0], [4.0]]
    assert nothing.tolist() == [[0.0]]
    assert float(total) == 6.0


def exchange() -> list[Any]:
    """Two exchanges under way at once, of parameters in two layouts and two kinds of numbers, one of them without gradient."""
    torch.manual_seed(rank())
    parameters = [
        nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.zeros(5).double()),
    ]
    parameters.append(nn.Parameter(torch.zeros(1)))
    given, exchanges = [], []
    for _ in range(2):
        for p in parameters[:2]:
            p.grad = torch.randn(p.shape, dtype=p.dtype)
        given.append([p.grad for p in parameters[:2]])
        exchanges.append(GradientExchange(parameters, weight=0.25 if rank() else 0.75))
        assert all(p.grad is None for p in parameters)
    sums = []
    for each in exchanges:
        each.wait()
        assert parameters[2].grad is None
        assert parameters[0].grad is not None
        assert parameters[0].grad.stride() == parameters[0].stride()
        sums.append([p.grad for p in parameters[:2]])
        parameters[0].grad = parameters[1].grad = None
    return [given, sums]


def test_gradients_are_added_up_by_weight_while_others_are_under_way(processes: Processes) -> None:
    (given, sums), (theirs, same) = processes(2, exchange)
    for a, b, total, again in zip(given, theirs, sums, same, strict=True):
        for x, y, z, w in zip(a, b, total, again, strict=True):
            torch.testing.assert_close(z, 0.75 * x + 0.25 * y)
            assert torch.equal(z, w)


def exchange_in_buckets() -> list[int]:
    """Sums of two passes over one graph, the first of which does not reach the last layer, with a frozen layer.

    Returns the number of all-reduces started before the last gradient of each pass.
    """
    layers = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(6)))  # 4 MiB each
    layers[2].requires_grad_(False)
    learnable, weight = [p for p in layers.parameters() if p.requires_grad], 0.25 if rank() else 0.75
    body = layers[:5](torch.randn(4, 1024) + rank())
    losses = [body.square().sum(), layers[5](body).square().sum()]
    given = [torch.autograd.grad(loss, learnable, retain_graph=True, allow_unused=True) for loss in losses]
    all_reduce, started, before_last = dist.all_reduce, [], []

    def counted(bucket: Tensor, async_op: bool) -> Any:
        started.append(len(bucket))
        return all_reduce(bucket, async_op=async_op)

    layers[0].weight.register_post_accumulate_grad_hook(lambda _: before_last.append(len(started)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", counted)
        passes = [partial(loss.backward, retain_graph=True) for loss in losses]
        exchanges = [GradientExchange(layers.parameters(), weight, backward) for backward in passes]
    for each, gradients in zip(exchanges, given, strict=True):
        each.wait()
        for p, gradient in zip(learnable, gradients, strict=True):
            if gradient is None:
                assert p.grad is None
            else:
                assert p.grad is not None
                assert torch.equal(p.grad, all_reduce_sum(weight * gradient))
                p.grad = None
    return before_last


def test_buckets_are_exchanged_during_a_pass_and_their_sums_are_those_of_whole_gradients(processes: Processes) -> None:
    assert processes(2, exchange_in_buckets) == [[0, 3]] * 2  # all but the last of the second pass


def exchange_with_nothing_to_say() -> Tensor | None:
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.full((2,), math.nan) if rank() else torch.ones(2)
    exchange = GradientExchange([p], weight=0.0 if rank() else 1.0)
    exchange.wait()
    return p.grad


def test_a_process_without_images_adds_nothing_whatever_its_gradient(processes: Processes) -> None:
    assert [total.tolist() for total in processes(2, exchange_with_nothing_to_say)] == [[1.0, 1.0]] * 2


def agree() -> list[list[bool]]:
    agreement = AsyncAnyReduce()
    return [agreement(rank() == 1 and call == 2, rank() == 0 and call == 3) for call in range(5)]


def test_a_wish_of_one_process_is_known_to_all_one_call_later(processes: Processes) -> None:
    for granted in processes(2, agree):
        assert granted == [[False, False]] * 3 + [[True, False], [False, True]]
    assert agree() == [[False, False]] * 3 + [[False, True], [False, False]]  # alone: at once, and only process 0


def evaluate_counted() -> tuple[dict[str, float], int]:
    _, loader = loaders()
    torch.manual_seed(1)
    seen = [labels for _, labels in loader]
    return evaluate(Network(True), loader), sum(map(len, seen))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_test_image_counts_once(processes: Processes, count: int) -> None:
    alone, images = evaluate_counted()
    assert images == 33
    together = processes(count, evaluate_counted)
    assert sum(seen for _, seen in together) == images
    for result, _ in together:
        assert result["top1"] == alone["top1"]
        assert result["top5"] == alone["top5"]
        assert result["loss"] == pytest.approx(alone["loss"], rel=1e-12)


# ---- a loss that is not finite ------------------------------------------------------------------------------------


def train_over_nan(on_nan: str, bad_rank: int | None) -> dict[str, Any]:
    """Training in which one process meets a NaN in the 4th batch, unless there is none and the batch is jumped over."""
    trainer = make_trainer("deepkd", "DKD", False, on_nan=on_nan, epochs=1)
    losses = trainer.distiller.losses

    def poisoned(*arguments: Any) -> dict[str, Tensor]:
        parts = losses(*arguments)
        if trainer.state.step == 3 and rank() == bad_rank:
            parts["target/tckd"] = parts["target/tckd"] * math.nan
        return parts

    trainer.distiller.losses = poisoned  # type: ignore[method-assign]
    if bad_rank is None:
        step = trainer.fast_step
        trainer.fast_step = lambda batch: None if trainer.state.step == 3 else step(batch)
    trainer.train()
    return {
        "student": trainer.distiller.student.state_dict(),
        "skipped": trainer.state.skipped,
        "loss": trainer.state.history[0]["train_loss"],
    }


@pytest.mark.parametrize("bad_rank", [0, 1])
def test_all_processes_leave_a_batch_out_that_one_cannot_learn_from(processes: Processes, bad_rank: int) -> None:
    expected = train_over_nan("skip", None)["student"]
    for result in processes(2, train_over_nan, "skip", bad_rank):
        assert result["skipped"] == 1
        assert math.isfinite(result["loss"])
        assert_close(result["student"], expected, 1e-10)


def test_all_processes_stop_where_one_meets_a_loss_that_is_not_finite(processes: Processes) -> None:
    with pytest.raises(AssertionError, match=r"not finite in epoch 1, step 4: target/tckd = nan.*SOLVER.ON_NAN skip"):
        processes(2, train_over_nan, "stop", 1)


# ---- buffers ------------------------------------------------------------------------------------------------------


class Memory(Distiller):
    """Draws the student's logits to a moving average of those that this rank has seen, a buffer of the method's own."""

    memory: Tensor

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__(student, teacher)
        self.register_buffer("memory", torch.zeros(CLASSES).double())

    def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
        mean = student.logits.mean(dim=0)
        losses = {"task/ce": F.cross_entropy(student.logits, labels), "kd/memory": (mean - self.memory.clone()).square().sum()}
        if self.training:
            self.memory.lerp_(mean.detach(), 0.5)
        return losses


def stop_and_resume(folder: Path) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """Final states of a run and of the same run stopped in its first epoch by rank 1 and resumed; memories when it resumed."""

    class Latest(Recorder):
        def save_latest(self, state: dict[str, Any]) -> None:
            if rank() == 0:
                checkpoint.save(folder / "latest", state)

    def trainer() -> BaseTrainer:
        torch.manual_seed(1)
        student, teacher = Network(True), Network(True)
        return BaseTrainer(Memory(student, teacher), *loaders(), epochs=2, lr=0.05, lr_scheduler="onecycle")

    whole, stopped, resumed = trainer(), trainer(), trainer()
    stopped.record_to(Latest())
    whole.train()
    step = stopped.train_step

    def train_step(*batch: Tensor) -> Any:
        stopped.shutdown.made = rank() == 1 and stopped.state.step == 3
        return step(*batch)

    stopped.train_step = train_step  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="in epoch 1, step 5 of 10"):
        stopped.train()
    resumed.state.load_state_dict(checkpoint.load(folder / "latest"))
    memories = [buffer.clone() for name, buffer in resumed.distiller.named_buffers() if name == "memory"]
    resumed.train()
    return [made.state.state_dict() | {"seconds": 0, "cost": {}} for made in (whole, resumed)], memories


def test_every_rank_resumes_with_its_own_buffers_within_an_epoch(processes: Processes, tmp_path: Path) -> None:
    (states, first), (_, second) = processes(2, stop_and_resume, tmp_path)
    assert_identical(states[1], states[0])
    assert not torch.equal(first[0], second[0])


# ---- what processes must agree on ---------------------------------------------------------------------------------


def check_same(settings: list[str]) -> None:
    same, other = (DataIdentity(("a",), SplitIdentity(1, sha256)) for sha256 in ("x", f"of {rank()}"))
    config = load_config(None, [*settings, "LOG.PREFIX", f"/{rank()}"])
    build._check_same_job(RunIdentity(config, "hash", same, {"m.py": b"1"}))
    config = load_config(None, [*settings, "SOLVER.LR", 0.1 + rank()])
    build._check_same_job(RunIdentity(config, "hash", other, {"m.py": b"%d" % rank()}))


def test_processes_with_different_jobs_do_not_start(processes: Processes, tiny: list[str]) -> None:
    said = r"another job than process .*SOLVER.LR: .* other plug-ins; test images 1, but not the same"
    with pytest.raises(AssertionError, match=said):
        processes(2, check_same, tiny)


def test_more_processes_than_images_in_a_batch_is_told(processes: Processes, tiny: list[str]) -> None:
    with pytest.raises(AssertionError, match=r"SOLVER.BATCH_SIZE 1 is too small to be dealt to 2 processes"):
        processes(2, build_small, [*tiny, "SOLVER.BATCH_SIZE", "1"])


def build_small(settings: list[str]) -> None:
    build.build_trainer(load_config(None, settings))


def test_synchronised_batch_norm_is_torchs_and_wants_gpus(processes: Processes, tiny: list[str]) -> None:
    with pytest.raises(AssertionError, match=r"SOLVER.SYNC_BN: torch synchronises batch norm on GPUs only"):
        processes(2, build_small, [*tiny, "SOLVER.SYNC_BN", "True"])
    assert processes(2, synchronised) == [2, 2]
    build_small([*tiny, "SOLVER.SYNC_BN", "True"])  # of one process every batch norm sees the whole batch


def train_synchronised() -> tuple[list[int], list[int], int]:
    """Sizes of this rank's batches in steps and in SyncBatchNorm (here batch norm), and updates of the learning rate."""
    trainer = make_trainer("base", "PRKD", True)  # whose average has a pass of its own for batch norm
    trainer.distiller.student = nn.SyncBatchNorm.convert_sync_batchnorm(trainer.distiller.student)
    step, normalise = trainer.train_step, nn.BatchNorm2d.forward
    steps, normalised = [], []

    def train_step(images: Tensor, labels: Tensor) -> Any:
        steps.append(len(labels))
        return step(images, labels)

    def forward(self: nn.BatchNorm2d, images: Tensor) -> Tensor:
        if self.training:
            normalised.append(len(images))
        return normalise(self, images)

    trainer.train_step = train_step  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.SyncBatchNorm, "forward", forward)
        trainer.train()
    return steps, normalised, trainer.scheduler.last_epoch


def test_under_synchronised_batch_norm_a_batch_of_fewer_images_than_ranks_is_left_out(processes: Processes) -> None:
    """The tenth batch has two images for four ranks: a black one in place of none would count in the others' statistics."""
    for steps, normalised, updates in processes(4, train_synchronised):
        assert steps == [4] * 18
        assert normalised == [4] * 2 * (18 + 9)
        assert updates == 20


def synchronised() -> int:
    network = build._synchronise(Network(True), torch.device("cuda"))
    return sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules())


# ---- downloads ----------------------------------------------------------------------------------------------------


def test_the_first_process_of_a_machine_downloads_and_the_others_find_the_file(
    processes: Processes, tiny: list[str], teacher_file: Path, tmp_path: Path
) -> None:
    """Also where the file system has no locks. The first request fails: by the time of the next, all would have asked."""
    content = teacher_file.read_bytes()
    with Server() as server:
        server.content, server.statuses = content, iter([503])
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = server.url.replace("file.bin", f"resnet8-{hashlib.sha256(content).hexdigest()[:8]}.pth")
        processes(2, build_pretrained, [*tiny, "DISTILLER.STUDENT_CKPT", "pretrained"], address, tmp_path)
        server.shutdown()
    assert len(server.asked) == 2


def build_pretrained(settings: list[str], address: str, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "FileLock", contextlib.nullcontext)
        patch.setattr(weight_files, "pretrained_url", lambda *asked: address)
        patch.chdir(folder)
        build.build_trainer(load_config(None, settings))
