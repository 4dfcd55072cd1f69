"""Config -> objects: the only file that sees everything. It also decides where a run lives and how it is resumed."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

from . import checkpoint
from .config import differences, hyper_parameters, solver_arguments, stream_options
from .data import create_loaders
from .distillers import create_distiller
from .errors import ConfigError, CorruptFileError, MissingFileError, python_command
from .logger import RunLogger
from .models import check_model_name, create_model
from .registry import DATASETS, DISTILLERS, TRAINERS
from .trainers import BaseTrainer

# Where data lie and who reads them may change between a run and its continuation: what is computed does not.
_MAY_CHANGE = ("DATASET.ROOT", "DATASET.NUM_WORKERS")


def load_plugin(path: str) -> None:
    """Run the user's file, so that what it registers is known. Only ever called with a file that the user named."""
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"plugin not found: {file.absolute()}")
    name = f"plugin_{file.stem}"  # a file called random.py must not replace Python's
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plugin {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def choose_device(name: str) -> torch.device:
    """``auto``: CUDA, else MPS, else the CPU; any other name is torch's."""
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"SOLVER.DEVICE {name} cannot be used: {str(error).splitlines()[0]}") from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def teacher_path(name: str, dataset: str, asked: str = "") -> Path:
    """The checkpoint of teacher ``name``: the one asked for (a file or run folder), or where ``dataset`` keeps its teachers.

    Relative paths are looked for in the working directory, then in the project. Raises UnknownNameError for a network that is
    not there, MissingFileError that says where it was looked for and how to get one.
    """
    check_model_name(name, dataset)
    description = DATASETS.get(dataset)
    path = _in_project(Path(asked or description.teachers.format(model=name) or f"teachers/{dataset}/{name}.pth"))
    weights = path / "student_best" if path.is_dir() else path
    if weights.is_file():
        return weights
    recipe = Path("configs") / dataset / "teachers" / f"{name}.yaml"
    if _in_project(recipe).is_file():
        train = f"{python_command()} train.py --cfg {recipe}"
    else:
        train = f"{python_command()} train.py DATASET.TYPE {dataset} DISTILLER.TYPE NONE DISTILLER.STUDENT {name}"
    hint = f" To get it: {description.teachers_hint.format(model=name)}." if description.teachers_hint else ""
    raise MissingFileError(
        f"no checkpoint of teacher '{name}' for {dataset}: looked for {weights.absolute()}.{hint} "
        f"To train it: {train}, then name its run folder by DISTILLER.TEACHER_CKPT"
    )


def _in_project(path: Path) -> Path:
    """A relative path that the working directory lacks and the project has, in the project; any other as it is."""
    in_project = Path(__file__).parents[1] / path
    return in_project if not path.exists() and in_project.exists() else path


def run_folder(config: CfgNode) -> Path:
    """``<LOG.PREFIX>/<PROJECT>/<NAME>``, the last two made fit to be file names."""
    return Path(config.LOG.PREFIX) / _file_name(config.EXPERIMENT.PROJECT) / _file_name(config.EXPERIMENT.NAME)


def _file_name(text: str) -> str:
    """Text as the name of one file: nothing that leads out of the folder, no more than 200 bytes."""
    name = re.sub(r"[^\w.,:=+\-\[\]]+", "_", text).strip("_").encode()[:200].decode(errors="ignore")
    return name.lstrip(".") or "default"


def prepare_folder(folder: Path, config: CfgNode, *, resume: bool) -> dict[str, Any] | None:
    """Make the run folder ready; returns the checkpoint to go on from, if any.

    An earlier run in the folder is moved aside, never overwritten. Raises ConfigError when a resumed run's settings differ.
    """
    latest = folder / "latest"
    if resume:
        if not latest.is_file():
            raise MissingFileError(f"nothing to resume: no checkpoint {latest.absolute()}. Start the run without --resume")
        state: dict[str, Any] = checkpoint.load(latest)
        if not isinstance(state, dict) or "config" not in state:
            raise CorruptFileError(f"{latest} is no checkpoint of a run: nothing can go on from it")
        for half_written in folder.glob(".*.tmp"):  # by a run that was killed
            half_written.unlink()
        changed = differences(state["config"], config.dump())
        changed = [line for line in changed if line.startswith(_used_settings(config)) and not line.startswith(_MAY_CHANGE)]
        if changed:
            raise ConfigError(
                f"the run in {folder} was started with other settings ({'; '.join(changed)}). "
                f"Resume it with --cfg {folder / 'config.yaml'}, or start a new run"
            )
        return state
    try:
        if folder.exists() and any(folder.iterdir()):
            aside = next(p for n in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())
            folder.rename(aside)
            print(f"an earlier run is kept as {aside}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be made: {error.strerror}") from error
    checkpoint.write_atomically(folder / "config.yaml", config.dump().encode())
    return None


def _place(model: nn.Module, device: torch.device) -> nn.Module:
    """On the device, in the memory layout in which CPUs and tensor cores convolve fastest; it changes no result."""
    return model.to(device).to(memory_format=torch.channels_last)


def _used_settings(config: CfgNode) -> tuple[str, ...]:
    """Prefixes of the settings that a run depends on: not those of other methods, nor of what it logs."""
    return ("EXPERIMENT.", "DATASET.", "DISTILLER.", "SOLVER.", f"{config.DISTILLER.TYPE}.")


def build_trainer(config: CfgNode, folder: Path | None = None, *, resume: bool = False) -> BaseTrainer:
    """All objects of a run, on their device, ready to ``train()``.

    Args:
        folder: run folder (see run_folder); None keeps and logs nothing.
        resume: go on from the folder's ``latest``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("training on several processes (torchrun) is not supported yet; run one process")
    dataset, settings = config.DATASET.TYPE, config.DISTILLER
    check_model_name(settings.STUDENT, dataset)
    needs_teacher = DISTILLERS.get(settings.TYPE).needs_teacher
    # Found missing before data are fetched.
    weights = teacher_path(settings.TEACHER, dataset, settings.TEACHER_CKPT) if needs_teacher else None
    device = choose_device(config.SOLVER.DEVICE)
    for seed in (torch.manual_seed, random.seed, np.random.seed):  # the last two for plugins that draw from them
        seed(config.EXPERIMENT.SEED % 2**32)  # numpy's range
    student, teacher = _place(create_model(settings.STUDENT, dataset=dataset), device), None
    if weights is not None:
        teacher = _place(create_model(settings.TEACHER, dataset=dataset), device)
        checkpoint.load_weights(teacher, weights)
    train_loader, test_loader = create_loaders(
        dataset,
        root=config.DATASET.ROOT,
        batch_size=config.SOLVER.BATCH_SIZE,
        test_batch_size=config.DATASET.TEST.BATCH_SIZE,
        limit=config.DATASET.LIMIT,
        seed=config.EXPERIMENT.SEED,
        device=device,
    )
    distiller = create_distiller(settings.TYPE, student, teacher, **hyper_parameters(config, settings.TYPE)).to(device)
    trainer: BaseTrainer = TRAINERS.get(config.SOLVER.TRAINER)(
        distiller,
        train_loader,
        test_loader,
        **solver_arguments(config),
        save_checkpoint_freq=config.LOG.SAVE_CHECKPOINT_FREQ,
        folder=folder,
        config=config.dump(),
        stream_options=stream_options(config, config.SOLVER.TRAINER),
    )
    if folder is not None:
        state = prepare_folder(folder, config, resume=resume)
        if state is not None:
            trainer.load_state_dict(state)
        trainer.logger = RunLogger(
            folder,
            title=folder.name,
            first_epoch=trainer.epoch + 1,
            wandb_project=config.EXPERIMENT.PROJECT if config.LOG.WANDB else None,
            settings=config,
        )
    return trainer
