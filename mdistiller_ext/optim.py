"""ComponentSGD: SGD that keeps one momentum buffer per named stream of gradients.

One stream is ``torch.optim.SGD``; two are DOT (ICCV 2023), three are DeepKD (arXiv 2505.15133). What a stream carries is the
caller's business. ::

    optimizer = ComponentSGD(model.parameters(), lr=0.05, momentum={"task": 0.825, "kd": 0.975}, decay_on="task")
    kd_loss.backward(retain_graph=True)
    optimizer.absorb("kd")      # v_kd <- m_kd v_kd + g, and .grad is cleared
    task_loss.backward()
    optimizer.absorb("task")
    optimizer.step()            # w <- w - lr (v_kd + v_task)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .errors import did_you_mean


class ComponentSGD(Optimizer):
    """SGD with a momentum of its own for each stream.

    Args:
        params: parameters or parameter groups; a group may have its own lr, momentum, partial_momentum and weight_decay.
        lr: learning rate.
        momentum: stream name -> momentum coefficient.
        weight_decay: L2 coefficient, added once a step, to one stream's buffer, from the weights before the step.
        decay_on: the stream that takes the weight decay, the first by default. A parameter that this stream does not
            reach is decayed in the first stream that does, as DOT's release does for it.
        decay_moved: compute the weight decay from the weights that the other streams of this step have already updated, as
            the DeepKD release does, instead of from the weights before the step.
        nesterov: update by ``g + m v`` instead of ``v`` in each stream, as torch.optim.SGD does for its single one.
        partial_momentum: coefficient of all streams of a parameter that not every stream has ever reached (an auxiliary
            head of one loss, say); the mean of ``momentum`` by default, which is the rule of the DOT and DeepKD releases.

    A parameter's first absorbed gradient is its buffer (no dampening), as in torch.optim.SGD. Which streams reach a
    parameter is learned from the steps already taken, so no gradient has to be kept until all of them are known.

    ``device_lr()`` keeps each group's learning rate on the device too, for a step that is captured once and replayed while
    the rate changes.
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
        # Streams absorbed since the last step, and the parameters that each one reached, with their gradients for Nesterov.
        self._reached: dict[str, dict[Tensor, Any]] = {}
        self._device_lr: list[Tensor] = []  # of each group, once they are asked for
        self._filled_with: list[float] = []
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "partial_momentum": partial_momentum},
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim; raises ValueError for values out of range or other streams than the first group's."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not (group["lr"] >= 0 and group["weight_decay"] >= 0):
            raise ValueError(f"lr and weight_decay must not be negative, got {group['lr']} and {group['weight_decay']}")
        self._check_same_streams(group["momentum"])
        for stream, coefficient in (group["momentum"] | {"(partial)": group["partial_momentum"]}).items():
            if not 0 <= coefficient < 1:
                raise ValueError(f"momentum of stream '{stream}' must be in [0, 1), got {coefficient}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch.optim; raises ValueError when the state has other streams."""
        for saved in state_dict["param_groups"]:
            self._check_same_streams(saved["momentum"])
        super().load_state_dict(state_dict)
        self._reached = {}

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("decay_on", "decay_moved", "nesterov", "_reached")}
        own |= {"_device_lr": [], "_filled_with": []}
        return super().__getstate__() | own

    def device_lr(self, on: bool = True) -> None:
        """Bring the copies of the learning rates on the device up to date, from now on the ones that ``step`` reads.

        Once before each step whose rate may have changed; nothing is synchronised. ``on=False`` goes back to the groups' own.
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
        """Fold the current ``.grad`` of every parameter into the stream's buffers (v <- m v + g) and clear it.

        Once a step for each stream; a second time raises RuntimeError, as it would apply the momentum twice.
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
                    buffers[stream] = p.grad.clone()  # v = g; a copy, since the caller may still hold the gradient
                else:
                    fold = folds.setdefault(self._coefficient(group, p, stream), ([], []))
                    fold[0].append(buffers[stream])
                    fold[1].append(p.grad)
                p.grad = None
            for coefficient, (into, gradients) in folds.items():
                torch._foreach_mul_(into, coefficient)
                torch._foreach_add_(into, gradients)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """``w <- w - lr * sum of the buffers`` of the streams absorbed since the last step.

        With a single stream, gradients that were not absorbed are absorbed here, so it is used like torch.optim.SGD. With
        several, they raise RuntimeError: it cannot be known whose they are.
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
        preference = sorted(self._reached, key=lambda stream: stream != self.decay_on)  # stable: decay_on comes first
        decayed_in = {p: stream for stream in reversed(preference) for p in self._reached[stream]}
        # With decay_moved each stream moves the weights before the next one is decayed, and decay_on comes last.
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
        """Momentum of a stream's buffer of a parameter."""
        reached_by_all = len(self.state[p]["momentum_buffers"]) == len(group["momentum"])
        coefficient: float = group["momentum"][stream] if reached_by_all else group["partial_momentum"]
        return coefficient

    def _decay(self, group: dict[str, Any], stream: str, parameters: list[Tensor]) -> None:
        """Add the parameters' weight decay to their buffers of the stream."""
        if group["weight_decay"] == 0 or not parameters:
            return
        buffers = [self.state[p]["momentum_buffers"][stream] for p in parameters]
        torch._foreach_add_(buffers, parameters, alpha=group["weight_decay"])
        for p in parameters if self.nesterov else ():
            gradients = self._reached[stream]
            gradients[p] = torch.add(gradients[p], p, alpha=group["weight_decay"])

    def _move(self, index: int, stream: str) -> None:
        """``w <- w - lr v`` for the parameters of group ``index`` that the stream reached; Nesterov: ``w - lr (g + m v)``."""
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
