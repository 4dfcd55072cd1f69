"""Name -> class, filled by decorators.

A registry imports the folder that holds its entries the first time it is asked for one, so a new method is one new file
and no list of imports is edited. This room knows nothing of what is registered.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, TypeVar

from .errors import ConfigError, UnknownNameError, did_you_mean

OWN = "; one of your own is known once its file is named by --plugin"

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry:
    """Named classes or functions of one kind.

    Args:
        kind: what an entry is, for messages ("distiller").
        package: the folder, as a module path, whose modules register the entries.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, Any] = {}
        self._registered_at: dict[str, tuple[CodeType, int]] = {}
        self._imported = False
        self._importing = threading.RLock()

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that files a class or function under ``name``.

        Running a notebook's cell again, reloading a module or loading a plug-in again replaces an entry by that of the same
        module and name. Raises ConfigError for a name that another entry has, be it of the same name in the same file.
        """

        def add(entry: Entry) -> Entry:
            if not self._is_built_in(entry):
                self._import_entries()  # so that a built-in name is known to be taken
            caller = sys._getframe(1)
            place = caller.f_code, caller.f_lineno  # a run of a cell or a module has a code object of its own
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
        """The entry called ``name``. Raises UnknownNameError with the nearest known name."""
        self._import_entries()
        if name not in self._entries:
            near = did_you_mean(name, self._entries)
            raise UnknownNameError(f"unknown {self.kind} '{name}'{near or '.'} Known: {', '.join(self)}{OWN}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._import_entries()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._import_entries()
        return iter(sorted(self._entries))

    def _is_built_in(self, entry: Any) -> bool:
        return f"{entry.__module__}.".startswith(f"{self._package}.")

    def _import_entries(self) -> None:
        with self._importing:  # another thread waits until all are there
            if self._imported:
                return
            self._imported = True  # set first: the modules below may ask this registry
            try:
                package = importlib.import_module(self._package)
                for module in pkgutil.walk_packages(package.__path__, prefix=f"{self._package}."):
                    importlib.import_module(module.name)
            except BaseException:
                self._imported = False  # the next question meets the same error, not half a registry
                raise


def _where(entry: Any) -> str:
    return f"{entry.__module__}.{entry.__qualname__}"


DISTILLERS = Registry("distiller", "mdistiller_ext.distillers")
TRAINERS = Registry("trainer", "mdistiller_ext.trainers")
MODELS = Registry("model", "mdistiller_ext.models")
DATASETS = Registry("data set", "mdistiller_ext.data")

register_distiller = DISTILLERS.register
register_trainer = TRAINERS.register
register_dataset = DATASETS.register


def register_model(name: str, *, zoo: str = "cifar100") -> Callable[[Entry], Entry]:
    """Register a function ``(num_classes: int) -> nn.Module`` as architecture ``name`` of a zoo.

    A zoo holds the architectures made for one image size: ``cifar100`` (32x32), ``tiny_imagenet`` (64x64) and
    ``imagenet`` (224x224). Every data set names the zoo that fits its images.
    """
    return MODELS.register(f"{zoo}/{name}")
