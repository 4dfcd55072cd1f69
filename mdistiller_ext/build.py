"""Build the objects of a run from its configuration."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from yacs.config import CfgNode

from .acceleration import accelerate, choose_device, forward_hooks, has_bf16, place
from .config import hyper_parameters, solver_arguments, stream_options
from .data import InMemoryLoader, Loader, create_loaders, create_plain_loader, enumerable_augment, mix_seeds
from .distillers import Distiller, create_distiller
from .distributed import all_gather_object, broadcast_object, local_rank_zero_first, rank, world_size
from .errors import ConfigError, listing
from .memory import shortage
from .models import check_model_name, create_model
from .models.features import return_modules
from .naming import file_name
from .networks import create_network
from .registry import DISTILLERS, TRAINERS
from .rng import be_deterministic, seed_generators
from .run import NoteRecorder, Resume, Run, RunIdentity, check_resumable, load_checkpoint
from .teacher_cache import MODES, CachedTeacherLoader, cached_teacher_loader
from .trainers import BaseTrainer
from .weight_files import student_path, teacher_path
from .weights import load_weights


def build_loaders(config: CfgNode, device: torch.device) -> tuple[Loader, Loader]:
    """Training and test loader of the configured data set, with what the configured method needs of them."""
    method, cached = DISTILLERS.get(config.DISTILLER.TYPE), caches_teacher(config)
    return create_loaders(
        config.DATASET.TYPE,
        batch_size=config.SOLVER.BATCH_SIZE,
        test_batch_size=config.DATASET.TEST.BATCH_SIZE,
        drop_last=config.DATASET.DROP_LAST,
        seed=config.EXPERIMENT.SEED,
        views=method.views,
        with_index=method.needs_index or cached,
        with_view=cached,
        **_data_options(config, device),
    )


def caches_teacher(config: CfgNode) -> bool:
    """Whether a run caches its teacher's logits. Raises ConfigError if it is to and cannot, with the reason."""
    mode, method = config.DISTILLER.TEACHER_CACHE, DISTILLERS.get(config.DISTILLER.TYPE)
    if mode not in MODES:
        raise ConfigError(f"DISTILLER.TEACHER_CACHE must be one of {', '.join(MODES)}, not '{mode}'")
    if mode == "off" or not method.needs_teacher:
        return False
    try:
        if method.compute is not Distiller.compute:
            raise ConfigError(f"{config.DISTILLER.TYPE} runs the teacher itself")
        enumerable_augment(config.DATASET.TYPE, strong=config.DATASET.STRONG, views=method.views)
    except ConfigError as error:
        raise ConfigError(f"DISTILLER.TEACHER_CACHE {mode} is not possible: {error}. Set it to off") from error
    return True


def build_plain_loader(
    config: CfgNode, device: torch.device, part: Literal["test", "train"] = "test", *, with_index: bool = False
) -> Loader:
    """Loader of the test or training images of the configured data set in their order, not augmented.

    Args:
        with_index: also yield the positions of the images.
    """
    options = {"part": part, "batch_size": config.DATASET.TEST.BATCH_SIZE, "with_index": with_index}
    return create_plain_loader(config.DATASET.TYPE, **options, **_data_options(config, device))


def _data_options(config: CfgNode, device: torch.device) -> dict[str, Any]:
    """Arguments that the training and test loader share."""
    data = config.DATASET
    return {
        "root": data.ROOT,
        "limit": data.LIMIT,
        "device": device,
        "data_device": None if data.DEVICE == "auto" else choose_device(data.DEVICE),
        "num_workers": data.NUM_WORKERS,
        "channels_last": config.SOLVER.CHANNELS_LAST,
        "on_error": data.ON_ERROR,
        "cache": data.CACHE,
        "num_classes": data.NUM_CLASSES,
        "image_size": data.IMAGE_SIZE,
        "mean": data.MEAN,
        "std": data.STD,
        "strong": data.STRONG,
        "test_fraction": data.TEST_FRACTION,
        "validation": data.VALIDATION,
        "rank": rank(),
        "world_size": world_size(),
    }


def build_model(name: str, loader: Loader, *, dataset: str) -> nn.Module:
    """Create network ``name`` for the image size and classes of a loader."""
    return create_model(name, dataset=dataset, num_classes=loader.num_classes, image_size=loader.image_shape[-1])


def build_student(config: CfgNode, loader: Loader) -> nn.Module:
    """The configured student, randomly initialised."""
    return create_network(config, "STUDENT", loader.num_classes, loader.image_shape[-1])


def build_teacher(config: CfgNode, loader: Loader, weights: Path) -> nn.Module:
    """The configured teacher with its weights. Raises as :func:`load_weights`."""
    settings = config.DISTILLER
    teacher = build_model(settings.TEACHER, loader, dataset=config.DATASET.TYPE)
    load_weights(teacher, weights, data=loader.identity)
    if settings.TEACHER_FEATURES:
        return_modules(teacher, settings.TEACHER_FEATURES, "DISTILLER.TEACHER_FEATURES")
    return teacher


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
    with local_rank_zero_first():  # weights and data may be downloaded
        if DISTILLERS.get(settings.TYPE).needs_teacher:
            teacher_weights = teacher_path(settings.TEACHER, dataset, settings.TEACHER_CKPT, config.DATASET.ROOT)
            teacher_hash = hashlib.sha256(teacher_weights.read_bytes()).hexdigest()
        if resume is not True:
            student_weights = student_path(settings.STUDENT, dataset, settings.STUDENT_CKPT)
        train_loader, test_loader = build_loaders(config, device)
    data = train_loader.identity
    assert data is not None
    identity = RunIdentity(config, teacher_hash, data, plugins or {})
    _check_same_job(identity)
    seed_generators(seed)
    student = build_student(config, train_loader)
    teacher = None
    if student_weights is not None:
        load_weights(student, student_weights, other_classes=True)
    if config.SOLVER.SYNC_BN:
        student = _synchronise(student, device)
    student = place(student, device, channels_last=config.SOLVER.CHANNELS_LAST)
    if teacher_weights is not None:
        teacher = build_teacher(config, train_loader, teacher_weights)
        teacher = place(teacher, device, channels_last=config.SOLVER.CHANNELS_LAST)
    hooks = () if teacher is None else forward_hooks(teacher.named_modules())  # before the method registers its own
    distiller = create_distiller(settings.TYPE, student, teacher, **hyper_parameters(config, settings.TYPE)).to(device)
    loader: Loader | CachedTeacherLoader = train_loader
    if caches_teacher(config):
        loader = _with_teacher_logits(config, train_loader, distiller, teacher_hash)
    if rank() > 0:
        seed_generators(mix_seeds(seed, rank()))  # ranks draw different dropout masks, for example
    trainer: BaseTrainer = TRAINERS.get(config.SOLVER.TRAINER)(
        distiller,
        loader,
        test_loader,
        **solver_arguments(config),
        save_checkpoint_freq=config.LOG.SAVE_CHECKPOINT_FREQ,
        stream_options=stream_options(config, config.SOLVER.TRAINER),
    )
    # Before networks are compiled, which would compile the small batches of the trial too.
    limits = shortage(distiller, train_loader.image_shape, train_loader.batch_size, len(trainer.active_streams))
    limits += accelerate(
        distiller,
        train_loader.image_shape,
        fold_teacher=config.SOLVER.FOLD_TEACHER,
        compile_networks=config.SOLVER.COMPILE,
        hooks=hooks,
    )
    if folder is not None:
        limits += _open_run(trainer, folder, identity, resume, notes)
    for limit in limits:
        trainer.recorder.note(limit)
    return trainer


def _with_teacher_logits(
    config: CfgNode, loader: Loader, distiller: Distiller, teacher_hash: str | None
) -> CachedTeacherLoader:
    """The training loader with the teacher's logits in each batch."""
    assert isinstance(loader, InMemoryLoader)
    assert loader.identity is not None
    assert loader.identity.train is not None
    settings, computes_bf16 = config.DISTILLER, config.SOLVER.AMP == "bf16" and has_bf16(loader.device)
    distiller.teacher_is_cached = True
    if distiller.needs_index:
        distiller.train_labels = loader.labels
    distiller.component_names(loader.image_shape)  # a method that reads features is refused before files are made
    return cached_teacher_loader(
        loader,
        lambda images: distiller.teacher_output(images).logits,
        mode=settings.TEACHER_CACHE,
        dtype=settings.TEACHER_CACHE_DTYPE,
        folder=Path(settings.TEACHER_CACHE_FOLDER or Path(config.DATASET.ROOT) / "teacher_cache"),
        about={
            "name": file_name(f"{config.DATASET.TYPE}-{settings.TEACHER}"),
            "teacher_sha256": teacher_hash,
            "data_sha256": loader.identity.train.sha256,
            "computed_in": "bfloat16" if computes_bf16 else "float32",
        },
    )


def _open_run(
    trainer: BaseTrainer, folder: Path, identity: RunIdentity, resume: Resume, notes: NoteRecorder | None
) -> list[str]:
    """Record to a run folder, on rank 0, and load its newest checkpoint on every rank; returns notes on what was loaded."""
    with contextlib.ExitStack() as stack:
        run = None
        if rank() == 0:
            run = stack.enter_context(Run(folder, identity, resume=resume, notes=notes or NoteRecorder()))
        newest = broadcast_object(run.newest if run is not None else None)
        loaded = [] if newest is None else load_checkpoint(trainer.state, identity, *newest)
        if run is not None:
            run.start(trainer.device, trainer.state.history, step=trainer.state.step)
            trainer.record_to(run)
        stack.pop_all()  # the trainer closes the run
    return loaded


def _check_same_job(identity: RunIdentity) -> None:
    """Raise ConfigError unless all ranks do the same job: on several machines, one may have other files or another yaml."""
    for other, theirs in enumerate(all_gather_object(identity)):
        problems = theirs.differences(identity) if other != rank() else []
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
