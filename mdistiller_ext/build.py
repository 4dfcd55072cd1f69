"""Config -> objects: the only file that sees everything."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shlex
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from . import checkpoint
from .config import default_config, hyper_parameters, solver_arguments, stream_options
from .data import DataIdentity, Loader, create_loaders, create_test_loader, mix_seeds
from .distillers import Distiller, create_distiller
from .distributed import all_gather_object, broadcast_object, launched, local_rank, local_rank_zero_first, rank, world_size
from .errors import ROOT, ConfigError, MissingFileError, from_here, listing, python_command
from .fetch import fetch_torchvision_weights
from .inference import InferenceNetwork, InferencePath, forward_hooks
from .models import LIBRARIES, check_model_name, create_model, find_architectures, list_models, pretrained_url
from .registry import DATASETS, DISTILLERS, TRAINERS
from .rng import be_deterministic, seed_generators
from .run import NoteRecorder, Resume, Run, RunIdentity, check_resumable, load_checkpoint
from .trainers import BaseTrainer

# ImageNet weights that torchvision lacks: where GDKD's repository keeps them.
_OTHER_PRETRAINED = {"MobileNetV1": Path("download_ckpts/imagenet_teachers/mv1/student_100.pth")}


def load_plugins(paths: Iterable[str]) -> dict[str, bytes]:
    """Load each of these files once; returns the sources of all (see load_plugin). ConfigError for two files of one name."""
    sources: dict[str, bytes] = {}
    for path in {os.path.abspath(path): path for path in paths}.values():
        for name, source in load_plugin(path).items():
            if sources.setdefault(name, source) != source:
                raise ConfigError(f"plugin {path}: there is another {name} among the plug-ins and what they import; rename one")
    return sources


def load_plugin(path: str) -> dict[str, bytes]:
    """Run the user's file, so that what it registers is known. Only ever called with a file that the user named.

    Its folder is added to the end of ``sys.path``: the file can import those beside it, and none of them replaces a module of
    Python or of an installed package.

    Returns the source of the file and of those beside it that are imported by now, by file name. Raises ConfigError that names
    the line for a file that is no Python or imports what is not there. Whatever else the file raises passes with its
    traceback: that is where its author looks.
    """
    file = Path(os.path.abspath(path))
    if not file.is_file():
        raise MissingFileError(f"plugin not found: {file}")
    name = f"plugin_{file.stem}"  # a file called random.py must not replace Python's
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plugin {path} is not a Python file")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        # The line of the file that led there, also where the mistake is in what it imports.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        what = error if lines else error.msg  # a SyntaxError as text ends in file and line
        raise ConfigError(f"plugin {path}, line {line}: {what}") from error
    modules = [module for name, module in sys.modules.items() if name != "__main__"]
    files = {Path(name) for name in (getattr(module, "__file__", None) for module in modules) if name}
    return {each.name: each.read_bytes() for each in sorted(files) if each.parent == file.parent and each.is_file()}


def choose_device(name: str) -> torch.device:
    """``auto``: CUDA, else MPS, else the CPU; any other name is torch's. Of several processes each has a GPU of its own."""
    several = launched()[1] > 1
    if name in ("auto", "cuda") and several and torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(f"torchrun started more processes than this machine's {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(local_rank())
        return torch.device("cuda", local_rank())
    if name != "auto":
        try:
            device = torch.device(name)
            torch.ones(1, device=device).add(1).item()  # the device "meta" has tensors, but nothing in them
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = str(error).splitlines()[0].split(". ")[0][:200]
            raise ConfigError(f"SOLVER.DEVICE {name} cannot be used: {reason}") from error
        if several and device.type != "cpu":
            raise ConfigError(f"SOLVER.DEVICE {name} is one device; with torchrun it must be cuda (one each) or cpu")
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() and not several else "cpu")


def teacher_path(name: str, dataset: str, asked: str = "", root: str = "") -> Path:
    """The checkpoint of teacher ``name``: the one asked for (see pretrained_path, or a file or run folder), or where
    ``dataset`` keeps its teachers. ImageNet's are torchvision's weights. ``root`` is DATASET.ROOT, for the advice.

    Relative paths are looked for in the working directory, then in the project. Raises UnknownNameError for a network that is
    not there, MissingFileError that says where it was looked for and how to get one.
    """
    check_model_name(name, dataset)
    if _is_pretrained(asked) or (not asked and dataset == "imagenet" and pretrained_url(name, dataset)):
        return pretrained_path(name, dataset, asked)
    description = DATASETS.get(dataset)
    path = Path(asked or description.teachers.format(model=name, lower=name.lower()) or f"teachers/{dataset}/{name}.pth")
    weights = _weights_file(path)
    if weights.is_file():
        return weights
    train = _training_command(name, dataset, root, augmented="_aug" in asked)
    hint = description.teachers_hint.format(model=name, download=python_command("mdistiller_ext.download"))
    hint = f" To get it: {hint}." if hint else ""
    raise MissingFileError(
        f"no checkpoint of teacher '{name}' for {dataset}: looked for {weights.absolute()}.{hint} "
        f"To train it: {train}, then name its run folder by DISTILLER.TEACHER_CKPT"
    )


def student_path(name: str, dataset: str, asked: str = "") -> Path | None:
    """The weights that student ``name`` starts from, or None for chance (``random``).

    Some data sets are small, and their students start from ImageNet's weights unless something else is asked for. Raises as
    teacher_path.
    """
    asked = asked or DATASETS.get(dataset).students_start
    if asked == "random":
        return None
    if _is_pretrained(asked):
        return pretrained_path(name, dataset, asked)
    weights = _weights_file(Path(asked))
    if not weights.is_file():
        raise MissingFileError(
            f"DISTILLER.STUDENT_CKPT: no checkpoint {weights.absolute()}.{_pretraining_advice(name)} "
            "DISTILLER.STUDENT_CKPT random starts from chance"
        )
    return weights


def pretrained_path(name: str, dataset: str, asked: str = "") -> Path:
    """ImageNet weights of network ``name``: torchvision's, fetched where they are missing, or a file of _OTHER_PRETRAINED.

    Args:
        asked: ``pretrained``, or torchvision's name for the weights, such as ``IMAGENET1K_V2``.

    Raises MissingFileError where there are none, or no network.
    """
    url = pretrained_url(name, dataset, "" if asked == "pretrained" else asked)
    if url is None:
        kept = _in_project(_OTHER_PRETRAINED[name]) if name in _OTHER_PRETRAINED else None
        if kept is not None and kept.is_file():
            return kept
        looked = "" if kept is None else f", and {kept.absolute()} does not exist"
        raise MissingFileError(
            f"torchvision has no ImageNet weights of {name} for {dataset}{looked}.{_pretraining_advice(name)} "
            "DISTILLER.STUDENT_CKPT random starts from chance"
        )
    there = _in_project(Path("download_ckpts", "imagenet_teachers", Path(url).name))
    try:
        return fetch_torchvision_weights(url, there.parent)
    except MissingFileError as error:
        raise MissingFileError(
            f"ImageNet weights of {name}: {error}. Other weights: DISTILLER.TEACHER_CKPT or STUDENT_CKPT (random: from chance)"
        ) from error


def load_weights(
    model: nn.Module, path: Path, *, data: DataIdentity | None = None, other_classes: bool = False
) -> DataIdentity | None:
    """Weights into a network (see checkpoint.load_weights); returns the identity of the data that they were trained on.

    That is None for files that do not say. A mismatch says which of the zoos' networks would fit.

    Args:
        data: what the network is to classify. Raises ConfigError for weights that were trained on other classes.
    """
    content = checkpoint.load(path)
    trained_on = DataIdentity.from_plain(dict.get(content, "data")) if isinstance(content, dict) else None
    changes = trained_on.class_changes(data) if trained_on is not None and data is not None else []
    if changes:
        raise ConfigError(
            f"{path} was trained on other classes than the data have ({'; '.join(changes)}), so labels would not match: "
            "choose the data that it was trained on (DATASET.TYPE, DATASET.ROOT), or another checkpoint"
        )
    checkpoint.load_weights(model, path, content=content, other_classes=other_classes, fitting=find_architectures)
    return trained_on


def _training_command(name: str, dataset: str, root: str = "", *, augmented: bool = False) -> str:
    """How to train a network without a teacher, by its recipe in ``configs/<dataset>/`` where there is one."""
    where = ["DATASET.ROOT", shlex.quote(root)] if root not in ("", default_config().DATASET.ROOT) else []
    for kind in (*(["teachers_aug"] * augmented), "teachers", "none"):
        recipe = ROOT / "configs" / dataset / kind / f"{name}.yaml"
        if recipe.is_file():
            return python_command("train.py", "--cfg", from_here(recipe), *where)
    settings = ["DATASET.TYPE", dataset, "DISTILLER.TYPE", "NONE", "DISTILLER.STUDENT", name]
    return python_command("train.py", *settings, *where)


def _pretraining_advice(name: str) -> str:
    """How to come by ImageNet's weights of a network, as a sentence; nothing for one that is not made for such images."""
    if not name.startswith(LIBRARIES) and name not in list_models("imagenet"):
        return ""
    train = _training_command(name, "imagenet")
    return f" To train it on ImageNet: {train}, then name its run folder by DISTILLER.STUDENT_CKPT or TEACHER_CKPT."


def _is_pretrained(asked: str) -> bool:
    """Whether a setting names weights, such as IMAGENET1K_V2, and not a file."""
    return asked == "pretrained" or bool(re.fullmatch(r"[A-Z][A-Z0-9_]+", asked) and not Path(asked).exists())


def _weights_file(path: Path) -> Path:
    """A file, or of a run folder the last epoch's student, as official teachers are: the best one is chosen on the test set."""
    path = _in_project(path)
    return path / "student_latest" if path.is_dir() else path


def _in_project(path: Path) -> Path:
    """A relative path that the working directory lacks and the project has, in the project; any other as it is."""
    in_project = ROOT / path
    return in_project if not path.exists() and in_project.exists() else path


def build_loaders(config: CfgNode, device: torch.device) -> tuple[Loader, Loader]:
    """Training and test loader as configured."""
    return create_loaders(
        config.DATASET.TYPE,
        batch_size=config.SOLVER.BATCH_SIZE,
        test_batch_size=config.DATASET.TEST.BATCH_SIZE,
        drop_last=config.DATASET.DROP_LAST,
        seed=config.EXPERIMENT.SEED,
        **_data_options(config, device),
    )


def build_test_loader(config: CfgNode, device: torch.device) -> Loader:
    """Test loader as configured, without reading the training images."""
    return create_test_loader(config.DATASET.TYPE, batch_size=config.DATASET.TEST.BATCH_SIZE, **_data_options(config, device))


def _data_options(config: CfgNode, device: torch.device) -> dict[str, Any]:
    """The arguments that both loaders of a data set share."""
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
    """Network ``name`` for the images and classes that ``loader`` yields; ``init`` as in create_model."""
    size = loader.image_shape[-1]
    return create_model(name, dataset=dataset, num_classes=loader.num_classes, image_size=size, init=init)


def _place(model: nn.Module, device: torch.device, config: CfgNode) -> nn.Module:
    """A network on the device, in the memory layout that is asked for."""
    layout = torch.channels_last if config.SOLVER.CHANNELS_LAST else torch.contiguous_format
    return model.to(device).to(memory_format=layout)


def _accelerate(distiller: Distiller, config: CfgNode, loader: Loader, hooks: Collection[int] = ()) -> list[str]:
    """Make a copy of the teacher for inference and compile what shall be compiled; notes on what is not done, and why.

    Args:
        hooks: of the teacher's forward hooks those that it was built with, as a network of torchvision is. With hooks of the
            method no copy is made: they would not see what it computes.
    """
    solver, notes = config.SOLVER, []
    device = next(distiller.parameters()).device
    if solver.AMP == "bf16" and not _has_bf16(device):
        distiller.autocast = None
        notes.append(f"SOLVER.AMP bf16: this {device.type} computes no bfloat16; off")
    teacher, accelerated = distiller.teacher, None
    if teacher is not None and (solver.FOLD_TEACHER or solver.COMPILE or distiller.autocast is not None):
        hooked = [name or "root module" for hook, name in forward_hooks(teacher.named_modules()).items() if hook not in hooks]
        if hooked:
            notes.append(
                "the teacher runs unfolded, in float32 and not compiled: the method has forward hooks on its "
                f"{listing(dict.fromkeys(hooked))}"
            )
        else:
            images = torch.zeros(2, *loader.image_shape, device=device)
            accelerated = InferenceNetwork(teacher, images, distiller.autocast, fold=solver.FOLD_TEACHER)
            distiller.inference_path = InferencePath(teacher, accelerated)
    if solver.COMPILE:
        try:
            torch.compile(torch.sin)(torch.zeros(2, device=device))
        except Exception as error:  # no C++ compiler, no Triton, an unknown GPU: torch has many ways to say so
            why = (str(error) or type(error).__name__).splitlines()[0]
            notes.append(f"SOLVER.COMPILE: torch cannot compile here ({why}); off")
        else:
            from torch._functorch import config as functorch_config  # slow to import

            # The streams' backward passes share one graph, so the first must not take its buffers.
            functorch_config.donated_buffer = False
            # On CPUs a compiled student was no faster (benchmarks/README.md).
            student = distiller.student if device.type != "cpu" else None
            for model in filter(None, (student, accelerated)):
                model.compile(dynamic=False)
    return notes


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not in every torch
        return bool(supported and supported())
    return True


def build_trainer(
    config: CfgNode,
    folder: Path | None = None,
    *,
    resume: Resume = False,
    plugins: Mapping[str, bytes] | None = None,
    notes: NoteRecorder | None = None,
) -> BaseTrainer:
    """All objects of a run, on their device, ready to ``train()``; of every process, where several train (distributed.group).

    Args:
        folder: run folder (see run_folder), which is then locked until the trainer is closed; None keeps and logs nothing.
        resume: go on from the folder's newest checkpoint; ``auto``: if there is one.
        plugins: what load_plugins returned, to keep it in the folder and to compare it on resuming.
        notes: recorder of what was shown so far, and will be, for the run folder.
    """
    dataset, settings, seed = config.DATASET.TYPE, config.DISTILLER, config.EXPERIMENT.SEED
    check_model_name(settings.STUDENT, dataset)
    if world_size() > config.SOLVER.BATCH_SIZE:
        raise ConfigError(f"SOLVER.BATCH_SIZE {config.SOLVER.BATCH_SIZE} is too small to be dealt to {world_size()} processes")
    be_deterministic(config.EXPERIMENT.DETERMINISTIC)
    # What is missing is found before data are fetched.
    if folder is not None and resume is True and rank() == 0:
        check_resumable(folder)
    teacher_weights, teacher_hash, student_weights = None, None, None
    device = choose_device(config.SOLVER.DEVICE)
    with local_rank_zero_first():  # weights and data may have to be downloaded
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
    student = build_model(settings.STUDENT, train_loader, dataset=dataset, init=settings.STUDENT_INIT)
    teacher = None
    if student_weights is not None:
        load_weights(student, student_weights, other_classes=True)
    student = _place(_synchronise(student, device) if config.SOLVER.SYNC_BN else student, device, config)
    if teacher_weights is not None:
        teacher = build_model(settings.TEACHER, train_loader, dataset=dataset)
        load_weights(teacher, teacher_weights, data=data)
        teacher = _place(teacher, device, config)
    hooks = () if teacher is None else forward_hooks(teacher.named_modules())  # before the method adds its own
    distiller = create_distiller(settings.TYPE, student, teacher, **hyper_parameters(config, settings.TYPE)).to(device)
    if rank() > 0:
        seed_generators(mix_seeds(seed, rank()))  # dropout, say, must not drop the same everywhere
    trainer: BaseTrainer = TRAINERS.get(config.SOLVER.TRAINER)(
        distiller,
        train_loader,
        test_loader,
        **solver_arguments(config),
        save_checkpoint_freq=config.LOG.SAVE_CHECKPOINT_FREQ,
        stream_options=stream_options(config, config.SOLVER.TRAINER),
    )
    limits = _accelerate(distiller, config, train_loader, hooks)
    if folder is not None:
        limits += _open_run(trainer, folder, identity, resume, notes)
    for limit in limits:
        trainer.recorder.note(limit)
    return trainer


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
        problems = theirs.differences(identity)
        if problems:
            raise ConfigError(f"process {other} has another job than process {rank()}: {listing(problems, '; ')}")


def _synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """Let batch norm compute its statistics over the whole batch; of a single process that is what it does."""
    if world_size() == 1:
        return model
    if device.type != "cuda":
        raise ConfigError(f"SOLVER.SYNC_BN: torch synchronises batch norm on GPUs only, and this is {device.type}")
    synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synchronised
