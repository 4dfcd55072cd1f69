"""What a method is given: a batch, and the outputs of the networks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..distributed import rank
from ..errors import ConfigError, listing
from ..evaluate import network_name


@dataclass(frozen=True)
class Batch:
    """This rank's part of a batch.

    Attributes:
        images: ``[N, 3, H, W]``; with V > 1 views ``[N, V, 3, H, W]``.
        labels: int64 ``[N]``.
        index: positions of the images in the training set, int64 ``[N]``; None unless the method has ``needs_index``
            or the teacher's logits are cached.
        teacher_logits: logits of the teacher for the images ``[N, C]``, which then does not run; only together with ``index``.
        sizes: number of samples on each rank. A rank without any has one zero image with weight 0, since every rank takes part
            in the exchange of gradients.
    """

    images: Tensor
    labels: Tensor
    index: Tensor | None = None
    teacher_logits: Tensor | None = None
    sizes: Sequence[int] = ()

    @classmethod
    def of(cls, inputs: Sequence[Tensor], sizes: Sequence[int]) -> Batch:
        """The batch of a loader's tensors: the first ones of images, labels, index and teacher's logits."""
        images, labels, *others = inputs
        index, teacher_logits = (*others, None, None)[:2]
        return cls(images, labels, index, teacher_logits, sizes)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Those of images, labels, index and teacher's logits that there are, by name."""
        given = {"images": self.images, "labels": self.labels, "index": self.index, "teacher_logits": self.teacher_logits}
        return {name: part for name, part in given.items() if part is not None}

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with ``function`` applied to each of ``inputs``."""
        changed: dict[str, Any] = {name: function(part) for name, part in self.inputs.items()}
        return replace(self, **changed)

    @property
    def size(self) -> int:
        """Number of samples that count on this rank."""
        return self.sizes[rank()]

    def padded(self) -> Batch:
        """The batch; an empty one is padded with a zero image, whose weight is 0."""
        if len(self.labels):
            return self
        return self.map(lambda part: part.new_zeros(1, *part.shape[1:]))


class Features(Mapping[str, Any]):
    """Features of a network by name, in ``dtype``, also where autocast computed them in a smaller one.

    Args:
        features: ``feats`` (maps ``[N, C, H, W]``), ``preact_feats`` (the same before their last ReLU), ``pooled_feat``
            (``[N, D]``), or other names of a network of one's own.
        network: the network's role and class, for messages.

    Raises ConfigError, when read, for features that the network does not return.
    """

    def __init__(self, features: Mapping[str, Any], dtype: torch.dtype, network: str) -> None:
        self._features = features
        self._dtype = dtype
        self._network = network

    def __getitem__(self, name: str) -> Any:
        if name not in self._features:
            role = self._network.split()[0]
            remedy = "choose another network"
            if name in ("feats", "pooled_feat"):
                remedy = f"name modules of it in DISTILLER.{role.upper()}_FEATURES, or choose another network"
            returned = listing(sorted(self._features)) or "none"
            raise ConfigError(
                f"the method reads the features '{name}' of the {self._network}, which returns {returned}: {remedy}"
            )
        return _cast(self._features[name], self._dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._features

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


class LogitsOnly(Mapping[str, Any]):
    """The features of a teacher whose logits alone are kept: none. Raises ConfigError when one is read."""

    def __getitem__(self, name: str) -> Any:
        raise ConfigError(
            f"the method reads the features '{name}' of the teacher, and DISTILLER.TEACHER_CACHE keeps its logits alone: "
            "set it to off"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Output(NamedTuple):
    """Output of a network: logits ``[N, C]`` and features by name (see Features)."""

    logits: Tensor
    features: Mapping[str, Any]


Outputs = Output | tuple[Output, ...]
"""Output of a network; with several views one for each"""


def run_network(model: nn.Module, images: Tensor, role: str) -> Output:
    """Output of a network for images ``[N, 3, H, W]``, in their dtype. Raises ConfigError for an output of another form.

    Args:
        role: ``student`` or ``teacher``.
    """
    output = model(images)
    name = network_name(model)
    if not isinstance(output, tuple) or len(output) != 2 or not isinstance(output[1], Mapping):
        raise ConfigError(f"{name} must return (logits [N, C], features by name), not {_kind(output)}")
    return Output(output[0].to(images.dtype), Features(output[1], images.dtype, f"{role} ({name})"))


def _kind(value: Any) -> str:
    return f"a tuple of {listing([_kind(part) for part in value])}" if isinstance(value, tuple) else type(value).__name__


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return [_cast(part, dtype) for part in value] if isinstance(value, list | tuple) else value
