"""Streams: which loss components share a momentum buffer, and whether those of a method cover those of a trainer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


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
