"""A checkout of mdistiller or of a fork of it: find it, import its package, and list what it registers."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..errors import ConfigError, MissingFileError, from_here, listing
from .compatibility import missing_packages, without_cuda

_LOOKED_FOR = "mdistiller/distillers/__init__.py"


@dataclass(frozen=True)
class Checkout:
    """An imported checkout.

    Attributes:
        root: the folder that holds the package ``mdistiller``.
        methods: its ``distiller_dict``.
        trainers: its ``trainer_dict``; ``base`` alone for a repository with a single trainer.
        defaults: its ``CFG``.
        sources: content of the files of its methods and trainers, by name, for the run folder.
    """

    root: Path
    methods: dict[str, type]
    trainers: dict[str, type]
    defaults: CfgNode
    sources: Mapping[str, bytes]

    def network(self, name: str) -> Any:
        """Its CIFAR network ``name``, a function of ``num_classes``, or None."""
        for module, attribute in (("mdistiller.models", "cifar_model_dict"), ("mdistiller.models.cifar", "cifar_model_dict")):
            with_dictionary = sys.modules.get(module)
            entry = getattr(with_dictionary, attribute, {}).get(name)
            if entry is not None:
                return entry[0] if isinstance(entry, tuple | list) else entry
        return None


def find_checkout(path: str | os.PathLike[str]) -> Path:
    """The folder that holds the package ``mdistiller``: ``path`` itself, the parent of a path to the package, or the only
    folder in ``path`` that holds it. Raises MissingFileError, ConfigError."""
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    if not folder.is_dir():
        raise MissingFileError(f"no checkout of mdistiller: {folder} is not a folder")
    named = [folder, *([folder.parent] if folder.name == "mdistiller" else [])]
    found = [each for each in [*named, *sorted(folder.glob("*/"))] if (each / _LOOKED_FOR).is_file()]
    if not found:
        raise MissingFileError(f"no checkout of mdistiller in {folder}: there is no {_LOOKED_FOR} in it")
    if found[0] not in named and len(found) > 1:
        raise ConfigError(f"{folder} holds several checkouts ({listing(each.name for each in found)}): name one of them")
    return found[0]


def load_checkout(path: str | os.PathLike[str]) -> Checkout:
    """Import the package ``mdistiller`` of a checkout. A process can import one checkout.

    Raises:
        MissingFileError: there is none at ``path``.
        ConfigError: the package cannot be imported, or lacks its dictionaries; or another one is imported already.
    """
    root = find_checkout(path)
    package = root / "mdistiller"
    imported = sys.modules.get("mdistiller")
    if imported is not None and list(imported.__path__) != [str(package)]:
        raise ConfigError(f"one checkout per process: mdistiller is imported from {listing(imported.__path__)} already")
    if imported is None:
        _import_package(root)
    with missing_packages(), without_cuda():
        distillers, cfg, engine = (
            _import(f"mdistiller.{name}", package) for name in ("distillers", "engine.cfg", "engine.trainer")
        )
        _import("mdistiller.models", package)
    methods = _attribute(distillers, "distiller_dict", package)
    trainers = getattr(sys.modules["mdistiller.engine"], "trainer_dict", None) or {
        "base": _attribute(engine, "Trainer", package)
    }
    files = [file for folder in ("distillers", "engine") for file in sorted((package / folder).glob("*.py"))]
    sources = {f"{file.parent.name}_{file.name}": file.read_bytes() for file in files}
    return Checkout(root, methods, trainers, _attribute(cfg, "CFG", package), sources)


def _import_package(root: Path) -> None:
    """Import ``mdistiller`` from this checkout, whatever package of that name is installed."""
    spec = importlib.machinery.PathFinder.find_spec("mdistiller", [str(root)])
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__path__ = [str(root / "mdistiller")]
    sys.modules["mdistiller"] = module
    if spec.loader is not None and spec.origin is not None:  # DeepKD's has no __init__.py
        spec.loader.exec_module(module)
    if str(root) not in sys.path:
        sys.path.append(str(root))  # last: no module of the checkout shadows an installed one


def _import(name: str, package: Path) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(package))]
        where = f" ({from_here(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
        remedy = f"; install what {package.parent / 'requirements.txt'} lists" if isinstance(error, ImportError) else ""
        raise ConfigError(f"the checkout's {name} cannot be imported: {error}{where}{remedy}") from error


def _attribute(module: Any, name: str, package: Path) -> Any:
    if not hasattr(module, name):
        raise ConfigError(f"{package.parent} is no checkout of mdistiller: {module.__name__} has no {name}")
    return getattr(module, name)
