"""Registries of classes and functions by name, filled by decorators.

On its first look-up, a registry imports every module of the package that contains its entries: a new method is one new file,
and no list of imports has to be edited. `Registry.names` reads the names from the source of these modules instead, since their
imports take seconds.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

from .errors import ConfigError, UnknownNameError, did_you_mean

OWN = "; one of your own is known once its file is named by --plugin"
"""The end of the message about an unknown name"""

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry:
    """Named classes or functions of one kind.

    Args:
        kind: what an entry is, such as "distiller", for messages.
        package: name of the package whose modules register the built-in entries.
        full_name: function of a decorator's arguments that returns the name of the entry. Default: the only argument.
    """

    def __init__(self, kind: str, package: str, full_name: Callable[..., str] = str) -> None:
        self.kind = kind
        self._package = package
        self._full_name = full_name
        self._entries: dict[str, Any] = {}
        self._registered_at: dict[str, tuple[CodeType, int]] = {}
        self._imported = False
        self._importing = threading.RLock()

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that registers a class or function as ``name``.

        An entry is replaced by one of the same module and qualified name, so that a notebook cell can be run again, and a
        module or plug-in reloaded. Raises ConfigError if another definition has the name, also one in the same file.
        """

        def add(entry: Entry) -> Entry:
            if not self._is_built_in(entry):
                self._import_entries()  # the name may be that of a built-in entry
            place = _calling_line(inspect.currentframe())
            taken = self._entries.get(name)
            if taken is not None:
                code, line = self._registered_at[name]
                if _where(taken) != _where(entry):
                    built_in = " (built in)" if self._is_built_in(taken) else ""
                    raise ConfigError(
                        f"{self.kind} '{name}' is already registered by {_where(taken)}{built_in}; "
                        f"choose another name for {_where(entry)}"
                    )
                if code is place[0] and line != place[1]:
                    raise ConfigError(
                        f"{self.kind} '{name}' is registered twice in {code.co_filename}, lines {line} and {place[1]}; "
                        "choose another name for one of them"
                    )
            self._entries[name], self._registered_at[name] = entry, place
            return entry

        return add

    def get(self, name: str) -> Any:
        """The entry registered as ``name``. Raises UnknownNameError with the closest known name."""
        self._import_entries()
        if name not in self._entries:
            near = did_you_mean(name, self._entries)
            raise UnknownNameError(f"unknown {self.kind} '{name}'{near or '.'} Known: {', '.join(self)}{OWN}")
        return self._entries[name]

    def names(self) -> list[str]:
        """The sorted names of all entries, without an import of the modules of built-in entries.

        Until these are imported, the names of built-in entries are those in decorators ``@register_<kind>("name")``.
        """
        with self._importing:
            return sorted(self._entries if self._imported else {*self._entries, *self._names_in_source()})

    def __contains__(self, name: object) -> bool:
        self._import_entries()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._import_entries()
        return iter(sorted(self._entries))

    def _is_built_in(self, entry: Any) -> bool:
        return f"{entry.__module__}.".startswith(f"{self._package}.")

    def _names_in_source(self) -> Iterator[str]:
        """Names in the decorators of the package's modules, whose arguments must be literals."""
        package = importlib.util.find_spec(self._package)
        assert package is not None
        for file in (file for folder in package.submodule_search_locations or () for file in Path(folder).rglob("*.py")):
            definitions = [
                node for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
            ]
            calls = [node for each in definitions for node in each.decorator_list if isinstance(node, ast.Call)]
            for call in calls:
                if ast.unparse(call.func).split(".")[-1].startswith("register"):
                    options = {str(option.arg): ast.literal_eval(option.value) for option in call.keywords}
                    yield self._full_name(*map(ast.literal_eval, call.args), **options)

    def _import_entries(self) -> None:
        with self._importing:  # other threads wait until all entries are registered
            if self._imported:
                return
            self._imported = True  # set first: the imported modules may use this registry
            try:
                package = importlib.import_module(self._package)
                for module in pkgutil.walk_packages(package.__path__, prefix=f"{self._package}."):
                    importlib.import_module(module.name)
            except BaseException:
                self._imported = False  # the next look-up raises the same error, rather than miss entries
                raise


def _calling_line(frame: FrameType | None) -> tuple[CodeType, int]:
    """Code object and line number from which the function of a frame was called.

    Each execution of a notebook cell, module or plug-in has its own code object, so two definitions with the same one are in
    the same execution.
    """
    assert frame is not None  # CPython has frames
    assert frame.f_back is not None
    return frame.f_back.f_code, frame.f_back.f_lineno


def _where(entry: Any) -> str:
    return f"{entry.__module__}.{entry.__qualname__}"


def _name_in_zoo(name: str, *, zoo: str = "cifar100") -> str:
    return f"{zoo}/{name}"


DISTILLERS = Registry("distiller", "mdistiller_ext.distillers")
TRAINERS = Registry("trainer", "mdistiller_ext.trainers")
MODELS = Registry("model", "mdistiller_ext.models", _name_in_zoo)
DATASETS = Registry("data set", "mdistiller_ext.data")

register_distiller = DISTILLERS.register
"""Decorator that registers a subclass of Distiller: ``@register_distiller("NAME")`` makes it ``DISTILLER.TYPE NAME``"""
register_trainer = TRAINERS.register
"""Decorator that registers a subclass of BaseTrainer, for ``SOLVER.TRAINER``"""
register_dataset = DATASETS.register
"""Decorator that registers a subclass of InMemoryDataset or ImageFolderDataset, for ``DATASET.TYPE``"""


def register_model(name: str, *, zoo: str = "cifar100") -> Callable[[Entry], Entry]:
    """Register a function ``(num_classes: int) -> nn.Module`` as architecture ``name`` of a zoo.

    A zoo contains the architectures for one image size: ``cifar100`` (32x32), ``tiny_imagenet`` (64x64) or ``imagenet``
    (224x224). Each data set names the zoo for its images.
    """
    return MODELS.register(_name_in_zoo(name, zoo=zoo))
