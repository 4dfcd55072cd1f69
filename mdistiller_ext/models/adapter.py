"""Networks of one's own in the form of the zoos' networks, without a change to them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError
from .features import Recorder, find_modules
from .layers import Output

_OWN = "network."


class Adapter(nn.Module):
    """A network that maps images to ``(logits, features)``, as those of the zoos do.

    The hooks that record features exist during a forward pass of the adapter only: the network itself stays as it is, and
    returns what it always did. Attributes that the adapter lacks are the network's, and so are the names in its ``state_dict``.

    Args:
        network: maps images ``[N, 3, H, W]`` to logits ``[N, C]``, to ``(logits, features by name)``, or to a mapping or an
            object with ``logits``, such as an output of Hugging Face's transformers.
        paths: modules whose outputs are ``feats``, as in ``named_modules()``; none: those that the network returns.
        setting: where the paths are set, for messages.

    The input of the linear layer whose output is the logits is ``pooled_feat``, unless the network returns one.

    Raises UnknownNameError for a path that the network does not have. The forward pass raises ConfigError for an output of
    another form.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str] = (), setting: str = "") -> None:
        super().__init__()
        self.network = network
        find_modules(network, paths, setting)
        self._recorder = Recorder(paths, setting)
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)

    @property
    def adapted(self) -> nn.Module:
        """The network."""
        return self.network

    def around(self, network: nn.Module) -> Adapter:
        """The same adapter of another network, such as a copy. Raises UnknownNameError if it lacks a module of the paths."""
        return Adapter(network, self._recorder.paths, self._recorder.setting)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":  # not yet there
                raise
            return getattr(self.network, name)

    def forward(self, images: Tensor) -> Output:
        """Logits ``[N, C]`` and features by name."""
        recorder, linear = self._recorder, list[tuple[Tensor, Tensor]]()
        hooks = [
            module.register_forward_hook(functools.partial(recorder.record_output, path))
            for path, module in find_modules(self.network, recorder.paths, recorder.setting).items()
        ]
        hooks += [
            module.register_forward_hook(lambda module, args, output: linear.append((args[0], output)))
            for module in self.network.modules()
            if isinstance(module, nn.Linear)
        ]
        try:
            output = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        logits, features = recorder.with_features(logits_and_features(output, self.network), self.network)
        pooled = next((given for given, result in linear if result is logits and given.ndim == 2), None)
        return logits, features if pooled is None else {"pooled_feat": pooled, **features}


def logits_and_features(output: Any, network: nn.Module) -> Output:
    """The logits and features in the output of a network; see Adapter. Raises ConfigError for another form."""
    logits: Any = output
    features: Mapping[str, Any] = {}
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Mapping):
        logits, features = output
    elif isinstance(output, Mapping):
        logits = output.get("logits")
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ConfigError(
            f"{type(network).__name__} returns {type(output).__name__}{keys}; it must return logits [N, C], (logits, features "
            "by name), or a mapping or an object with logits"
        )
    return logits, dict(features)


def _without_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Give entries of the adapted network the names that they have in its own ``state_dict``, in their order."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + name.removeprefix(prefix).removeprefix(_OWN)] = state.pop(name)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Undo `_without_prefix`: entries of the adapter's other children, such as SimKD's head, keep their names."""
    others_children = tuple(f"{prefix}{name}." for name, _ in module.named_children() if name != "network")
    for name in [name for name in state if name.startswith(prefix) and not name.startswith(others_children)]:
        state[prefix + _OWN + name.removeprefix(prefix)] = state.pop(name)
