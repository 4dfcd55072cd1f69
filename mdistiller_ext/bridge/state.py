"""What an upstream method keeps beside student and teacher, in modules or outside of them, to be saved and restored."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError

_NUMBERS = (bool, int, float)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # attributes of torch's own, such as ``training``


class _Value(NamedTuple):
    """A tensor or number, and the object, dictionary or list that holds it under a key."""

    holder: Any
    key: Any
    value: Any


def own_state(module: nn.Module, apart: Container[nn.Module]) -> dict[str, Any]:
    """Tensors and numbers of a module by path: parameters, buffers, those of plain attributes, lists and dictionaries.

    Args:
        apart: modules that are left out, such as the student.

    Upstream keeps VID's variances in a list and OFD's margins in another, which ``state_dict`` does not see. Tensors share
    memory with the module's.
    """
    values = _values(module, apart)[0]
    return {path: each.value.detach() if isinstance(each.value, Tensor) else each.value for path, each in values.items()}


@torch.no_grad()
def load_own_state(module: nn.Module, apart: Container[nn.Module], state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what :func:`own_state` returned. Raises ConfigError for a tensor of another shape.

    Tensors are assigned in place; what the method had created since its construction is created again.
    """
    values, holders = _values(module, apart)
    for path, saved in state.items():
        own = values.get(path)
        if own is not None and isinstance(own.value, Tensor) and isinstance(saved, Tensor):
            if own.value.shape != saved.shape:
                raise ConfigError(f"{path} has shape {list(own.value.shape)}, in the checkpoint {list(saved.shape)}")
            own.value.copy_(saved)
            continue
        where, _, key = path.rpartition(".")
        holder: Any = own.holder if own is not None else holders.get(where)
        name: Any = own.key if own is not None else key
        value = saved.to(device, copy=True) if isinstance(saved, Tensor) else saved
        if isinstance(holder, dict | list):
            holder[name] = value
        elif holder is not None:
            setattr(holder, name, value)


def _values(module: nn.Module, apart: Container[nn.Module]) -> tuple[dict[str, _Value], dict[str, Any]]:
    """The values by path, and the modules and objects by path."""
    values: dict[str, _Value] = {}
    holders: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(holder: Any, key: Any, value: Any, path: str) -> None:
        if isinstance(value, _NUMBERS):
            is_own = not isinstance(holder, dict | list | tuple) and not type(holder).__module__.startswith("torch.")
            if is_own:
                values[path] = _Value(holder, key, value)
            return
        if id(value) in seen or (isinstance(value, nn.Module) and value in apart):
            return
        if isinstance(value, Tensor):
            values[path] = _Value(holder, key, value)
        elif not isinstance(value, dict | list | tuple | nn.Module) and not _is_upstream(value):
            return
        else:
            if not isinstance(value, dict | list | tuple):
                holders[path] = value
            for name, part in _parts(value):
                visit(value, name, part, f"{path}.{name}" if path else str(name))
        seen.add(id(value))

    visit(None, None, module, "")
    return values, holders


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, dict):
        yield from list(value.items())
    else:
        if isinstance(value, nn.Module):
            yield from value.named_parameters(recurse=False)
            yield from value.named_buffers(recurse=False)
            yield from value.named_children()
        yield from [(name, part) for name, part in vars(value).items() if name not in _OF_EVERY_MODULE]


def _is_upstream(value: Any) -> bool:
    """Whether a value is an object of a class of the checkout, such as CRD's sampler."""
    return type(value).__module__.split(".")[0] == "mdistiller"
