"""Features of networks that return none: outputs of modules by their paths, and the input of the classifier.

Recorded by forward hooks, so any network will do, also one whose forward pass cannot be traced. Names of parameters stay.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError, UnknownNameError, did_you_mean, listing
from .layers import Output


def find_modules(model: nn.Module, paths: Sequence[str], setting: str) -> dict[str, nn.Module]:
    """Modules of a network by path. Raises UnknownNameError for a path that it does not have; ``setting`` has the paths."""
    modules = dict(model.named_modules())
    for path in paths:
        if path not in modules or not path:
            near = did_you_mean(path, [name for name in modules if name], cutoff=0.4)
            children = listing(name for name, _ in model.named_children())
            raise UnknownNameError(
                f"{setting}: {type(model).__name__} has no module '{path}'{near or '.'} At the top: {children}"
            )
    return {path: modules[path] for path in paths}


def return_modules(model: nn.Module, paths: Sequence[str], setting: str) -> None:
    """Make a network return the outputs of modules as ``feats``, in the order of ``paths``.

    A module that runs several times in a forward pass, such as a shared ReLU, gives its last output. ``preact_feats`` of the
    network, which would not match, are left out.

    Args:
        paths: as in ``named_modules()``, such as ``layer3.2.relu``.
        setting: where the paths are set, for messages.

    Raises UnknownNameError for a path that the network does not have. The forward pass raises ConfigError for a module that
    does not run, and for an output that is neither a map ``[N, C, H, W]`` nor a vector ``[N, D]``.
    """
    recorder = Recorder(paths, setting)
    for path, module in find_modules(model, paths, setting).items():
        module.register_forward_hook(functools.partial(recorder.record_output, path))
    model.register_forward_hook(recorder.add_to_output)


def return_classifier_input(model: nn.Module, num_classes: int) -> None:
    """Make a network that returns logits return ``(logits, features)``, with the input of its classifier as ``pooled_feat``.

    The classifier is the last linear layer with ``num_classes`` outputs; a network without one returns no features.
    """
    classifiers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    recorder = Recorder(())
    for classifier in classifiers[-1:]:
        classifier.register_forward_pre_hook(recorder.record_input)
    model.register_forward_hook(recorder.add_to_output)


class Recorder:
    """Features recorded during a forward pass. Its methods are hooks, which a deep copy of the network copies with it.

    Args:
        paths, setting: see return_modules.
    """

    def __init__(self, paths: Sequence[str], setting: str = "") -> None:
        self.paths = paths
        self.setting = setting
        self._outputs: dict[str, Any] = {}
        self._pooled: Tensor | None = None

    def record_output(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the module at ``path``."""
        # A copy: the modules that follow may work in place, as torchvision's activations do.
        self._outputs[path] = output.clone() if isinstance(output, Tensor) else output

    def record_input(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of the classifier."""
        self._pooled = args[0]

    def add_to_output(self, module: nn.Module, args: Any, output: Any) -> Output:
        """Forward hook of the network."""
        return self.with_features(output if isinstance(output, tuple) else (output, {}), module)

    def with_features(self, output: Output, network: nn.Module) -> Output:
        """The output of the network, with the features recorded since the last call."""
        logits, features = output
        outputs, pooled = self._outputs, self._pooled
        self._outputs, self._pooled = {}, None  # holds no graph longer than the caller
        if self.paths:
            features = _without(features, "preact_feats") | {
                "feats": [self._map(path, outputs, network) for path in self.paths]
            }
        if pooled is not None and pooled.ndim == 2:
            features = {"pooled_feat": pooled} | features
        return logits, features

    def _map(self, path: str, outputs: Mapping[str, Any], module: nn.Module) -> Tensor:
        network = type(module).__name__
        if path not in outputs:
            raise ConfigError(f"{self.setting}: module '{path}' does not run in the forward pass of {network}; name another")
        output = outputs[path]
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(
                f"{self.setting}: module '{path}' of {network} gives {shape}; features are maps [N, C, H, W] or vectors [N, D]"
            )
        return output


def _without(features: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in features.items() if key != name}
