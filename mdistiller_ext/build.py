"""Build the objects of a run from its configuration."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from . import checkpoint
from .acceleration import accelerate, choose_device, forward_hooks, place
from .config import hyper_parameters, solver_arguments, stream_options
from .data import DataIdentity, Loader, create_loaders, create_test_loader, mix_seeds
from .distillers import create_distiller
from .distributed import first_on_this_machine, from_all, from_first, rank, world_size
from .errors import ConfigError, CorruptFileError, UserError, listing
from .logger import RunLogger
from .models import check_model_name, create_model
from .notes import NoteRecorder
from .provenance import record_start
from .registry import DISTILLERS, TRAINERS
from .rng import be_deterministic, seed_generators
from .run_folder import (
    Resume,
    changed_plugins,
    changed_settings,
    check_resumable,
    keep_plugins,
    lock_folder,
    prepare_folder,
)
from .trainers import BaseTrainer
from .weight_files import student_path, teacher_path
from .weights import load_weights


def build_loaders(config: CfgNode, device: torch.device) -> tuple[Loader, Loader]:
    """Training and test loader of the configured data set."""
    return create_loaders(
        config.DATASET.TYPE,
        batch_size=config.SOLVER.BATCH_SIZE,
        test_batch_size=config.DATASET.TEST.BATCH_SIZE,
        drop_last=config.DATASET.DROP_LAST,
        seed=config.EXPERIMENT.SEED,
        **_data_options(config, device),
    )


def build_test_loader(config: CfgNode, device: torch.device) -> Loader:
    """Test loader of the configured data set; the training images are not read."""
    return create_test_loader(config.DATASET.TYPE, batch_size=config.DATASET.TEST.BATCH_SIZE, **_data_options(config, device))


def _data_options(config: CfgNode, device: torch.device) -> dict[str, Any]:
    """Arguments that the training and test loader share."""
    data = config.DATASET
    return {
        "root": data.ROOT,
        "limit": data.LIMIT,
        "device": device,
        "data_device": None if data.DEVICE == "auto" else choose_device(data.DEVICE),
        "num_workers": data.NUM_WORKERS,
        "on_error": data.ON_ERROR,
        "num_classes": data.NUM_CLASSES,
        "image_size": data.IMAGE_SIZE,
        "mean": data.MEAN,
        "std": data.STD,
        "strong": data.STRONG,
        "test_fraction": data.TEST_FRACTION,
        "rank": rank(),
        "world_size": world_size(),
    }


def build_model(name: str, loader: Loader, *, dataset: str, init: str = "default") -> nn.Module:
    """Create network ``name`` for the image size and classes of a loader; ``init`` as in :func:`create_model`."""
    size = loader.image_shape[-1]
    return create_model(name, dataset=dataset, num_classes=loader.num_classes, image_size=size, init=init)


def build_trainer(
    config: CfgNode,
    folder: Path | None = None,
    *,
    resume: Resume = False,
    plugins: Mapping[str, bytes] | None = None,
    notes: NoteRecorder | None = None,
) -> BaseTrainer:
    """Build a trainer, with all objects of a run on their device, ready to ``train()``. Called by every rank.

    Args:
        folder: run folder (see run_folder), locked until the trainer is closed; None saves and logs nothing.
        resume: continue from the newest checkpoint in the folder; ``auto``: if there is one.
        plugins: what :func:`plugins.load_plugins` returned, saved in the folder and compared on resuming.
        notes: recorder of all notes, saved in the folder.
    """
    dataset, settings, seed = config.DATASET.TYPE, config.DISTILLER, config.EXPERIMENT.SEED
    check_model_name(settings.STUDENT, dataset)
    if world_size() > config.SOLVER.BATCH_SIZE:
        raise ConfigError(f"SOLVER.BATCH_SIZE {config.SOLVER.BATCH_SIZE} is too small to be dealt to {world_size()} processes")
    be_deterministic(config.EXPERIMENT.DETERMINISTIC)
    # Check for missing files before anything is downloaded.
    if folder is not None and resume is True and rank() == 0:
        check_resumable(folder)
    teacher_weights, teacher_hash, student_weights = None, None, None
    device = choose_device(config.SOLVER.DEVICE)
    with first_on_this_machine():  # weights and data may be downloaded
        if DISTILLERS.get(settings.TYPE).needs_teacher:
            teacher_weights = teacher_path(settings.TEACHER, dataset, settings.TEACHER_CKPT, config.DATASET.ROOT)
            teacher_hash = hashlib.sha256(teacher_weights.read_bytes()).hexdigest()
        if resume is not True:
            student_weights = student_path(settings.STUDENT, dataset, settings.STUDENT_CKPT)
        train_loader, test_loader = build_loaders(config, device)
    data = train_loader.identity
    assert data is not None
    plugins = plugins or {}
    plugin_hashes = {name: hashlib.sha256(source).hexdigest() for name, source in plugins.items()}
    _check_same_everywhere(config, teacher_hash, plugin_hashes, data)
    seed_generators(seed)
    student = build_model(settings.STUDENT, train_loader, dataset=dataset, init=settings.STUDENT_INIT)
    teacher = None
    if student_weights is not None:
        load_weights(student, student_weights, other_classes=True)
    if config.SOLVER.SYNC_BN:
        student = _synchronise(student, device)
    student = place(student, device, channels_last=config.SOLVER.CHANNELS_LAST)
    if teacher_weights is not None:
        teacher = build_model(settings.TEACHER, train_loader, dataset=dataset)
        load_weights(teacher, teacher_weights, data=data)
        teacher = place(teacher, device, channels_last=config.SOLVER.CHANNELS_LAST)
    hooks = () if teacher is None else forward_hooks(teacher.named_modules())  # before the method registers its own
    distiller = create_distiller(settings.TYPE, student, teacher, **hyper_parameters(config, settings.TYPE)).to(device)
    if rank() > 0:
        seed_generators(mix_seeds(seed, rank()))  # ranks draw different dropout masks, for example
    trainer: BaseTrainer = TRAINERS.get(config.SOLVER.TRAINER)(
        distiller,
        train_loader,
        test_loader,
        **solver_arguments(config),
        save_checkpoint_freq=config.LOG.SAVE_CHECKPOINT_FREQ,
        folder=folder if rank() == 0 else None,
        config=config.dump(),
        teacher_hash=teacher_hash,
        plugins=plugin_hashes,
        data=data.plain(),
        stream_options=stream_options(config, config.SOLVER.TRAINER),
    )
    limits = accelerate(
        distiller,
        train_loader.image_shape,
        fold_teacher=config.SOLVER.FOLD_TEACHER,
        compile_networks=config.SOLVER.COMPILE,
        hooks=hooks,
    )
    if folder is not None:
        limits += _open_folder(trainer, folder, config, resume, plugins, notes)
    if trainer.logger is not None:
        for limit in limits:
            trainer.logger.note(limit)
    return trainer


def _open_folder(
    trainer: BaseTrainer,
    folder: Path,
    config: CfgNode,
    resume: Resume,
    plugins: Mapping[str, bytes],
    recorder: NoteRecorder | None,
) -> list[str]:
    """Give the trainer its logger and the state to go on from, which the first process reads for all; notes on that state."""
    with contextlib.ExitStack() as stack:
        newest = None
        if rank() == 0:
            unlock = lock_folder(folder)
            stack.callback(unlock)
            newest = prepare_folder(folder, config, resume=resume)
            if newest is None and trainer.data is not None and trainer.data["classes"]:
                names = os.fsencode("".join(f"{name}\n" for name in trainer.data["classes"]))
                checkpoint.write_atomically(folder / "classes.txt", names)
        newest = from_first(newest)
        notes = [] if newest is None else _load_state(trainer, *newest)
        if rank() == 0:
            keep_plugins(folder, plugins)
            record_start(folder / "provenance.json", trainer.device, epoch=trainer.epoch, step=trainer.step)
            trainer.logger = RunLogger(
                folder,
                title=folder.name,
                first_epoch=trainer.epoch + 1,
                wandb_project=config.EXPERIMENT.PROJECT if config.LOG.WANDB else None,
                settings=config,
                notes=recorder,
                at_end=unlock,
            )
            stack.pop_all()  # from now on the logger unlocks it
    return notes


def _load_state(trainer: BaseTrainer, file: Path, state: dict[str, Any]) -> list[str]:
    """Put a run's checkpoint, of that file, into a trainer; what is then not as before, as notes."""
    if state["teacher_hash"] != trainer.teacher_hash:
        raise ConfigError(
            f"the teacher's checkpoint is not the one that the run in {file.parent} began with (SHA-256 "
            f"{str(state['teacher_hash'])[:12]}..., now {str(trainer.teacher_hash)[:12]}...): put that back, or start a new run"
        )
    data, began_with = DataIdentity.from_plain(trainer.data), DataIdentity.from_plain(state.get("data"))
    changes = began_with.changes(data) if began_with is not None and data is not None else []
    if changes:
        raise ConfigError(
            f"the data (DATASET.ROOT) are not those that the run in {file.parent} began with ({'; '.join(changes)}): "
            "put those back, or start a new run"
        )
    notes = changed_plugins(file.parent, state.get("plugins") or {}, trainer.plugins)
    try:
        trainer.load_state_dict(state)
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(f"{'' if isinstance(error, UserError) else type(error).__name__} {error}".split())[:200]
        raise CorruptFileError(f"{file} does not fit this run: {why}") from error
    before = len(state["rng"])
    if before == world_size():
        return notes
    return [
        *notes,
        f"the run was on {before} process{'es' * (before > 1)} and goes on with {world_size()}: the same batches and steps, "
        "but no longer bit for bit, as sums are taken in another order, batch norm without SOLVER.SYNC_BN sees parts of "
        "batches of another size, and random layers such as dropout draw other numbers",
    ]


def _check_same_everywhere(config: CfgNode, teacher_hash: str | None, plugins: dict[str, str], data: DataIdentity) -> None:
    """Raise ConfigError unless all processes do the same job: on several machines, one may have other files or another yaml."""
    for other, (settings, teacher, files, theirs) in enumerate(from_all((config.dump(), teacher_hash, plugins, data))):
        problems = changed_settings(settings, config)
        if teacher != teacher_hash:
            problems.append("another checkpoint of the teacher")
        if files != plugins:
            problems.append("other plug-ins")
        problems += theirs.changes(data)
        if problems:
            raise ConfigError(f"process {other} has another job than process {rank()}: {listing(problems, '; ')}")


def _synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """Convert batch norm to compute its statistics over the whole batch of all ranks. Raises ConfigError except on GPUs."""
    if world_size() == 1:
        return model
    if device.type != "cuda":
        raise ConfigError(f"SOLVER.SYNC_BN: torch synchronises batch norm on GPUs only, and this is {device.type}")
    synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synchronised
