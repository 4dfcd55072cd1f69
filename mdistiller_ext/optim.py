"""SGD with one momentum buffer per named stream of gradients.

A stream is a set of losses whose gradients share one momentum buffer. One stream is ``torch.optim.SGD``, two are DOT (ICCV
2023), three are DeepKD (arXiv 2505.15133). The caller decides which losses form a stream::

    optimizer = ComponentSGD(model.parameters(), lr=0.05, momentum={"task": 0.825, "kd": 0.975}, decay_on="task")
    kd_loss.backward(retain_graph=True)
    optimizer.absorb("kd")      # v_kd <- m_kd v_kd + g; .grad is set to None
    task_loss.backward()
    optimizer.absorb("task")
    optimizer.step()            # w <- w - lr (v_kd + v_task)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .errors import did_you_mean


class _Optimizer(Optimizer):
    """torch's Optimizer without a decorator of these methods, which imports torch's compiler: a second at the start of a run.

    The decorator keeps torch.compile from tracing them.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)


class ComponentSGD(_Optimizer):
    """Implement SGD with a separate momentum buffer and coefficient for each stream.

    Args:
        params: parameters or parameter groups; a group may override lr, momentum, partial_momentum and weight_decay.
        lr: learning rate.
        momentum: the momentum coefficient of each stream, by name.
        weight_decay: L2 coefficient, applied once per step, to the buffer of one stream, from the weights before the step.
        decay_on: the stream to which weight decay is applied. Default: the first. A parameter without a gradient from this
            stream is decayed in the first stream that gives it one, as in DOT's release.
        decay_moved: compute the weight decay from the weights that the other streams of this step have already updated, as
            DeepKD's release does, instead of from the weights before the step.
        partial_momentum: coefficient used in every stream for parameters that have never had a gradient from some of the
            streams, such as an auxiliary head with one loss. Default: the mean of ``momentum``, as in the releases of DOT and
            DeepKD.
        nesterov: update each stream by ``g + m v`` instead of ``v``, as torch.optim.SGD does.

    Raises:
        ValueError: for an empty ``momentum``, a ``decay_on`` that is not one of the streams, and values out of range.

    A parameter's first gradient initialises its buffer (no dampening), as in torch.optim.SGD. Whether all streams contribute to
    a parameter is determined from the gradients absorbed so far, so no gradient is stored until all streams are known.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: dict[str, float],
        weight_decay: float = 0.0,
        decay_on: str | None = None,
        decay_moved: bool = False,
        partial_momentum: float | None = None,
        nesterov: bool = False,
    ) -> None:
        if not momentum:
            raise ValueError("ComponentSGD needs at least one stream: momentum={'all': 0.9}")
        if partial_momentum is None:
            partial_momentum = sum(momentum.values()) / len(momentum)
        self.decay_on = next(iter(momentum)) if decay_on is None else decay_on
        self.decay_moved = decay_moved
        self.nesterov = nesterov
        self._check_stream(self.decay_on, momentum)
        # Streams absorbed since the last step -> parameters with a gradient in the stream -> that gradient (Nesterov only).
        self._reached: dict[str, dict[Tensor, Any]] = {}
        self._device_lr: list[Tensor] = []  # per group; empty while device_lr is off
        self._filled_with: list[float] = []  # the values that _device_lr holds
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "partial_momentum": partial_momentum},
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim. Raises ValueError for values out of range, and for streams other than the default ones."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not (group["lr"] >= 0 and group["weight_decay"] >= 0):
            raise ValueError(f"lr and weight_decay must not be negative, got {group['lr']} and {group['weight_decay']}")
        self._check_same_streams(group["momentum"])
        for stream, coefficient in (group["momentum"] | {"(partial)": group["partial_momentum"]}).items():
            if not 0 <= coefficient < 1:
                raise ValueError(f"momentum of stream '{stream}' must be in [0, 1), got {coefficient}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch.optim. Raises ValueError if the state has other streams."""
        for saved in state_dict["param_groups"]:
            self._check_same_streams(saved["momentum"])
        super().load_state_dict(state_dict)
        self._reached = {}

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("decay_on", "decay_moved", "nesterov", "_reached")}
        own |= {"_device_lr": [], "_filled_with": []}
        return super().__getstate__() | own

    def device_lr(self, on: bool = True) -> None:
        """Copy each group's learning rate into a tensor on the device, which ``step`` then reads.

        For a step that is captured as a CUDA graph and replayed while the learning rate changes. Call it before each step whose
        learning rate may have changed; it does not synchronise the device. ``on=False`` makes ``step`` read the groups again.
        """
        if not on:
            self._device_lr, self._filled_with = [], []
            return
        if not self._device_lr:
            self._device_lr = [torch.zeros((), device=group["params"][0].device) for group in self.param_groups]
            self._filled_with = [0.0] * len(self.param_groups)
        for index, group in enumerate(self.param_groups):
            if group["lr"] != self._filled_with[index]:
                self._device_lr[index].fill_(group["lr"])
                self._filled_with[index] = group["lr"]

    def _check_same_streams(self, momentum: dict[str, float]) -> None:
        if momentum.keys() != self.defaults["momentum"].keys():
            raise ValueError(f"the streams are {', '.join(self.defaults['momentum'])}, not {', '.join(momentum)}")

    @staticmethod
    def _check_stream(stream: str, momentum: dict[str, float]) -> None:
        if stream not in momentum:
            near = did_you_mean(stream, momentum) or "."
            raise ValueError(f"unknown stream '{stream}'{near} Known: {', '.join(momentum)}")

    @torch.no_grad()
    def absorb(self, stream: str) -> None:
        """Accumulate the current ``.grad`` of every parameter into the stream's buffer, ``v <- m v + g``, and set it to None.

        Raises:
            ValueError: for an unknown stream.
            RuntimeError: if called twice for a stream before ``step``, which would apply the momentum twice.
        """
        self._check_stream(stream, self.defaults["momentum"])
        if stream in self._reached:
            raise RuntimeError(f"stream '{stream}' was absorbed twice in one step; add its losses before backward()")
        reached = self._reached[stream] = {}
        for group in self.param_groups:
            folds: dict[float, tuple[list[Tensor], list[Tensor]]] = {}  # coefficient -> buffers, gradients
            for p in group["params"]:
                if p.grad is None:
                    continue
                reached[p] = p.grad if self.nesterov else None
                buffers = self.state[p].setdefault("momentum_buffers", {})
                if stream not in buffers:
                    buffers[stream] = p.grad.clone()  # v = g; the caller may still hold the gradient
                else:
                    fold = folds.setdefault(self._coefficient(group, p, stream), ([], []))
                    fold[0].append(buffers[stream])
                    fold[1].append(p.grad)
                p.grad = None
            for coefficient, (into, gradients) in folds.items():
                torch._foreach_mul_(into, coefficient)
                torch._foreach_add_(into, gradients)

    def discard(self) -> None:
        """Drop the gradients, and the streams absorbed since the last step, of a step that was given up.

        The buffers stay as they are: restore them beforehand.
        """
        self._reached = {}
        self.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters, ``w <- w - lr * sum of the buffers`` of the streams absorbed since the last step.

        With a single stream, gradients not yet absorbed are absorbed here, so the optimizer can be used like torch.optim.SGD.

        Args:
            closure: reevaluates the model and returns the loss (optional).

        Raises:
            RuntimeError: with several streams, if a parameter has a gradient that was not absorbed, whose stream is unknown.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(p.grad is not None for group in self.param_groups for p in group["params"]):
            streams = list(self.defaults["momentum"])
            if len(streams) > 1:
                raise RuntimeError(
                    "step() found gradients that belong to no stream; call absorb(stream) after each backward(), "
                    f"stream being one of: {', '.join(streams)}"
                )
            self.absorb(streams[0])
        preference = sorted(self._reached, key=lambda stream: stream != self.decay_on)  # decay_on first, then as absorbed
        decayed_in = {p: stream for stream in reversed(preference) for p in self._reached[stream]}
        # With decay_moved, each stream updates the weights before the next one is decayed, and decay_on comes last.
        phases = [[stream] for stream in preference[1:] + preference[:1]] if self.decay_moved else [list(self._reached)]
        for index, group in enumerate(self.param_groups):
            for streams in phases:
                for stream in streams:
                    self._decay(group, stream, [p for p in group["params"] if decayed_in.get(p) == stream])
                for stream in streams:
                    self._move(index, stream)
        self._reached = {}
        return loss

    def _coefficient(self, group: dict[str, Any], p: Tensor, stream: str) -> float:
        """Momentum coefficient of a parameter in a stream."""
        reached_by_all = len(self.state[p]["momentum_buffers"]) == len(group["momentum"])
        coefficient: float = group["momentum"][stream] if reached_by_all else group["partial_momentum"]
        return coefficient

    def _decay(self, group: dict[str, Any], stream: str, parameters: list[Tensor]) -> None:
        """Add the weight decay of the parameters to their buffers of the stream."""
        if group["weight_decay"] == 0 or not parameters:
            return
        buffers = [self.state[p]["momentum_buffers"][stream] for p in parameters]
        torch._foreach_add_(buffers, parameters, alpha=group["weight_decay"])
        for p in parameters if self.nesterov else ():
            gradients = self._reached[stream]
            gradients[p] = torch.add(gradients[p], p, alpha=group["weight_decay"])

    def _move(self, index: int, stream: str) -> None:
        """Update the parameters of group ``index`` by one stream: ``w <- w - lr v``; Nesterov: ``w <- w - lr (g + m v)``."""
        group, reached = self.param_groups[index], self._reached[stream]
        moved = [p for p in group["params"] if p in reached]
        if not moved:
            return
        updates = [self.state[p]["momentum_buffers"][stream] for p in moved]
        if self.nesterov:
            updates = list(torch._foreach_mul(updates, [self._coefficient(group, p, stream) for p in moved]))
            torch._foreach_add_(updates, [reached[p] for p in moved])
        if self._device_lr:
            torch._foreach_sub_(moved, torch._foreach_mul(updates, self._device_lr[index]))
        else:
            torch._foreach_add_(moved, updates, alpha=-group["lr"])
