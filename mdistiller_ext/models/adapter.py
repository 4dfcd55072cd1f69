"""Networks of one's own in the form of the zoos' networks, without a change to them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.fx import Proxy

from ..errors import ConfigError
from .features import Recorder, find_modules
from .layers import Output


class Adapter(nn.Module):
    """A network that maps images to ``(logits, features)``, as those of the zoos do.

    The hooks that record features exist during a forward pass of the adapter only: the network itself stays as it is, and
    returns what it always did.

    Args:
        network: maps images ``[N, 3, H, W]`` to logits ``[N, C]``, to ``(logits, features by name)``, or to a mapping or an
            object with ``logits``, such as an output of Hugging Face's transformers.
        paths: modules whose outputs are ``feats``, as in ``named_modules()``; none: those that the network returns.
        setting: where the paths are set, for messages.

    The input of the linear layer that gives the logits is ``pooled_feat``, unless the network returns one. Attributes that the
    adapter lacks are the network's.

    Raises UnknownNameError for a path that the network does not have. The forward pass raises ConfigError for an output of
    another form.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str] = (), setting: str = "") -> None:
        super().__init__()
        self.network = network
        find_modules(network, paths, setting)
        self._recorder = Recorder(paths, setting)

    @property
    def adapted(self) -> nn.Module:
        """The network."""
        return self.network

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":  # not yet there
                raise
            return getattr(self.network, name)

    def forward(self, images: Tensor) -> Output:
        recorder = self._recorder
        hooks = [
            module.register_forward_hook(functools.partial(recorder.record_output, path))
            for path, module in find_modules(self.network, recorder.paths, recorder.setting).items()
        ]
        hooks += [
            module.register_forward_pre_hook(recorder.record_input)
            for module in self.network.modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            output = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return recorder.with_features(logits_and_features(output, self.network), self.network)


def logits_and_features(output: Any, network: nn.Module) -> Output:
    """The logits and features in the output of a network; see Adapter. Raises ConfigError for another form."""
    features: Mapping[str, Any] = {}
    logits = output
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Mapping):
        logits, features = output
    elif isinstance(output, Mapping):
        logits = output.get("logits")
    elif not isinstance(output, Tensor | Proxy):
        logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor | Proxy):  # a Proxy where batch norm is folded
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ConfigError(
            f"{type(network).__name__} returns {type(output).__name__}{keys}; it must return logits [N, C], (logits, features "
            "by name), or a mapping or an object with logits"
        )
    return cast(Tensor, logits), dict(features)
