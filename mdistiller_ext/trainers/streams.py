"""Streams: which loss components share a momentum buffer, and whether those of a method cover those of a trainer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..distillers.base import ROLES
from ..errors import ConfigError
from ..registry import DISTILLERS, TRAINERS, Registry


@dataclass(frozen=True)
class Stream:
    """Loss components that share one momentum buffer.

    Attributes:
        roles: the components' roles; see Distiller.losses.
        decays: whether this stream takes the weight decay; the first one does where none is marked.
        decay_moved: compute that decay after the other streams have updated the weights; see ComponentSGD.
    """

    name: str
    roles: tuple[str, ...]
    momentum: float
    decays: bool = False
    decay_moved: bool = False


def merge_streams(streams: Sequence[Stream]) -> list[Stream]:
    """Join streams of equal momentum: a buffer is linear in its gradients, so their losses can share a backward pass.

    A decay of moved weights depends on each stream's own update: those streams stay apart.
    """
    if any(stream.decay_moved for stream in streams):
        return list(streams)
    merged: dict[float, Stream] = {}
    for stream in streams:
        other = merged.get(stream.momentum)
        if other is not None:
            stream = Stream(
                f"{other.name}+{stream.name}", other.roles + stream.roles, other.momentum, other.decays or stream.decays
            )
        merged[stream.momentum] = stream
    return list(merged.values())


def streams_fit(streams: Sequence[Stream], roles: Collection[str]) -> bool:
    """Whether every role is in a stream, and every stream has one of the roles."""
    covered = {role for stream in streams for role in stream.roles}
    return covered.issuperset(roles) and all(not set(roles).isdisjoint(stream.roles) for stream in streams)


def fitting_trainers(roles: Collection[str]) -> list[str]:
    """Names of the registered trainers that can train a method with components of these roles."""
    return [name for name in TRAINERS if streams_fit(TRAINERS.get(name).streams(0.9), roles)]


def check_roles(trainer: type, method: type, streams: Sequence[Stream], components: Sequence[str]) -> None:
    """Raise ConfigError unless the method's components and the trainer's streams cover each other."""
    roles = {name.split("/")[0] for name in components}
    if streams_fit(streams, roles):
        return
    fitting = " or ".join(f"'{name}'" for name in fitting_trainers(roles))
    raise ConfigError(
        f"trainer '{_registered_name(TRAINERS, trainer)}' needs {_enumerate(['/'.join(s.roles) for s in streams])}; "
        f"{_registered_name(DISTILLERS, method)} offers {_enumerate([role for role in ROLES if role in roles])}. Use {fitting}."
    )


def method_name(distiller: object) -> str:
    """Name by which a method is registered, otherwise that of its class."""
    return _registered_name(DISTILLERS, type(distiller))


def _registered_name(registry: Registry, entry: type) -> str:
    return next((name for name in registry if registry.get(name) is entry), entry.__name__)


def _enumerate(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
