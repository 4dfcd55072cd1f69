"""GradientRecords: inner products of the gradients of task and teacher, sampled during training (``SOLVER.RECORD``).

A sample is a probe beside the training step, before it: a forward pass of its own, one backward pass per role, and all that the
forward pass changed restored. So it does not matter how the step is computed, and training is the same to the last bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..distillers.base import ROLES, Distiller
from ..distillers.outputs import Batch
from ..distillers.progress import Progress
from ..distributed import all_reduce_sum
from ..errors import ConfigError, did_you_mean
from ..rng import generator_state, set_generator_state
from .step import forward, loss_of, share_of_batch
from .streams import Stream, method_name

RecordKind = Literal["gsnr", "conflict"]


class GradientRecords:
    """Statistics of the gradients of each role with respect to the student's parameters, over windows of samples.

    A gradient is that of the loss over the whole batch of all ranks, as the optimizer absorbs it: without weight decay. All
    statistics are inner products, kept for each parameter tensor and each pair of roles. They are bilinear: sum over the
    tensors of a layer for the layer, over all of them for the network, and over all pairs of its roles for a stream.

    - ``gsnr`` keeps those of the window's mean gradients, and of the samples' differences from the mean;
    - ``conflict`` keeps their means over a window and, for the whole network, those of every sample.

    A sample that is not finite is left out, since its step is about to be repeated or its batch to be skipped. A window may
    span epochs.

    Args:
        distiller: student and method, whose layers are built.
        progress: epoch of training, for the losses.
        kinds: what to record.
        streams: streams of the trainer before merging, for :meth:`state_dict` alone.
        components: names of the method's loss components.
        every: steps between samples.
        window: samples of a window.

    Raises ConfigError for an unknown kind, a value out of range, ``conflict`` with a method of a single role, and a method
    whose steps change Python values, which cannot be restored.
    """

    def __init__(
        self,
        distiller: Distiller,
        progress: Progress,
        kinds: Sequence[str],
        *,
        streams: Sequence[Stream],
        components: Sequence[str],
        every: int,
        window: int,
    ) -> None:
        present = {name.split("/")[0] for name in components}
        self.roles = [role for role in ROLES if role in present]
        _check(kinds, every, window, distiller, self.roles)
        self.distiller = distiller
        self.progress = progress
        self.kinds = kinds
        self.streams = streams
        self.every = every
        self.window = window
        parameters = {name: p for name, p in distiller.student.named_parameters() if p.requires_grad}
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self._windows = {name: torch.zeros(0, dtype=torch.int64) for name in ("first_step", "last_step", "samples")}
        self._windows |= {name: values.new_zeros(0, *values.shape) for name, values in self._sums().items()}
        self._windows |= self._samples()
        if "gsnr" in kinds:
            self._windows["mean_gram"] = self._windows["centred_gram"]
        self._open = self._new_window()

    def observe(self, batch: Batch, step: int) -> None:
        """Sample the gradients of a batch that is about to be trained on, if the step is one of those to sample.

        Every rank must call it. Synchronises with the device when it samples.

        Args:
            step: number of steps since the beginning of the run.
        """
        if step % self.every:
            return
        with _unchanged(self.distiller):
            gradients = self._gradients(batch)
        gram = self._gram(gradients)
        if gram.isfinite().all():
            self._add(step, gradients, gram)

    def close(self) -> None:
        """End the window at the end of training; one with a single sample is dropped."""
        window, steps = self._open, self._open["sample_step"]
        if len(steps) < 2:
            return
        rows = {"first_step": steps[:1], "last_step": steps[-1:], "samples": torch.tensor([len(steps)])}
        rows |= {name: window[name][None] / len(steps) for name in self._sums()}
        rows |= {name: window[name] for name in self._samples()}
        if "gsnr" in self.kinds:
            rows["mean_gram"] = self._gram(window["mean"])[None]
        self._windows = {name: torch.cat([values, rows[name]]) for name, values in self._windows.items()}
        self._open = self._new_window()

    def state_dict(self) -> dict[str, Any]:
        """What is recorded so far, as the entry ``records`` of a checkpoint.

        With W windows, N samples in all of them, P parameter tensors and R roles, it holds:

        - ``kinds``, ``every``, ``window``: the settings;
        - ``roles``: names of the R roles, in the order of all dimensions R;
        - ``parameters``: names of the P parameter tensors of the student, in the order of all dimensions P;
        - ``streams``: name -> ``{"roles": those of the R roles that it has, "momentum": its momentum}``, before merging;
        - ``windows``: the finished windows, on the CPU, gradients in units of the loss per unit of the weights:

          - ``first_step``, ``last_step``, ``samples``: int64 ``[W]``: numbers of the steps, counted from 0 over the run, before
            which the first and last sample were taken, and number of samples;
          - ``sample_step``: int64 ``[N]``, the same for every sample, window by window;
          - ``mean_gram`` (``gsnr``): float64 ``[W, P, R, R]``, inner products of the roles' mean gradients over the window;
          - ``centred_gram`` (``gsnr``): float64 ``[W, P, R, R]``, means over the window's n samples of the inner products of
            the differences from these means; its diagonal is the variance, biased by (n - 1) / n;
          - ``gram`` (``conflict``): float64 ``[W, P, R, R]``, means over the window of the inner products of the gradients;
          - ``sample_gram`` (``conflict``): float64 ``[N, R, R]``, those of every sample, over the whole network;

        - ``open``: the unfinished window: sums over its samples so far in place of means, and ``mean`` (``gsnr``), the mean
          gradients ``[R, numel]`` of all parameters, on the device of training.
        """
        streams = {
            stream.name: {"roles": [role for role in self.roles if role in stream.roles], "momentum": stream.momentum}
            for stream in self.streams
        }
        settings = {"kinds": list(self.kinds), "every": self.every, "window": self.window, "roles": self.roles}
        return settings | {
            "parameters": self.names,
            "streams": streams,
            "windows": dict(self._windows),
            "open": dict(self._open),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned, with the same settings, student and method."""
        self._windows = dict(state["windows"])
        self._open = dict(state["open"])
        if "gsnr" in self.kinds:
            self._open["mean"] = self._open["mean"].to(self.parameters[0].device)

    # ---- the parts of a window ------------------------------------------------------------------------------------

    def _sums(self) -> dict[str, Tensor]:
        """Zero for what is summed over the samples of a window."""
        zero = torch.zeros(len(self.parameters), len(self.roles), len(self.roles), dtype=torch.float64)
        return {name: zero for name, kind in (("centred_gram", "gsnr"), ("gram", "conflict")) if kind in self.kinds}

    def _samples(self) -> dict[str, Tensor]:
        """No rows yet of what is kept for every sample."""
        grams = torch.zeros(0, len(self.roles), len(self.roles), dtype=torch.float64)
        return {"sample_step": torch.zeros(0, dtype=torch.int64)} | ({"sample_gram": grams} if "conflict" in self.kinds else {})

    def _new_window(self) -> dict[str, Tensor]:
        window = self._sums() | self._samples()
        if "gsnr" in self.kinds:
            window["mean"] = torch.zeros((), device=self.parameters[0].device)
        return window

    def _add(self, step: int, gradients: Tensor, gram: Tensor) -> None:
        """Add a sample to the window. No tensor is changed in place: states that were handed out stay as they are."""
        window = self._open
        window["sample_step"] = torch.cat([window["sample_step"], torch.tensor([step])])
        count = len(window["sample_step"])
        if "conflict" in self.kinds:
            window["gram"] = window["gram"] + gram
            window["sample_gram"] = torch.cat([window["sample_gram"], gram.sum(dim=0)[None]])
        if "gsnr" in self.kinds:  # Welford's recurrence
            difference = gradients - window["mean"]
            window["centred_gram"] = window["centred_gram"] + self._gram(difference) * (1 - 1 / count)
            window["mean"] = window["mean"] + difference / count
        if count == self.window:
            self.close()

    # ---- a sample -------------------------------------------------------------------------------------------------

    def _gradients(self, batch: Batch) -> Tensor:
        """Gradient of each role over the batch of all ranks, all parameters in a row: ``[R, numel]``."""
        _, losses = forward(self.distiller, self.progress, *batch.inputs.values())
        rows = []
        for role in self.roles:
            loss = loss_of(losses, (role,))
            if loss.requires_grad:
                gradients = torch.autograd.grad(
                    loss, self.parameters, retain_graph=role != self.roles[-1], allow_unused=True, materialize_grads=True
                )
            else:  # a constant, such as zero in this phase of the training
                gradients = tuple(torch.zeros_like(p) for p in self.parameters)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        share = share_of_batch(self.distiller, len(batch.labels))
        local = torch.stack(rows)
        return all_reduce_sum(local.mul_(share) if share else local.zero_())  # 0 times NaN is not zero

    def _gram(self, vectors: Tensor) -> Tensor:
        """Inner products of ``[R, numel]`` within each parameter tensor: ``[P, R, R]``, on the CPU."""
        exact = torch.float32 if vectors.device.type == "mps" else torch.float64  # MPS does not support it
        parts = [part.to(exact) for part in vectors.split([p.numel() for p in self.parameters], dim=1)]
        return torch.stack([part @ part.T for part in parts]).cpu().double()


@contextlib.contextmanager
def _unchanged(distiller: Distiller) -> Iterator[None]:
    """Restore all buffers but the teacher's, and the random generators, at the end of the block."""
    before = [buffer.clone() for buffer in distiller.changing_buffers()]
    generators = generator_state()
    try:
        yield
    finally:
        for buffer, value in zip(distiller.changing_buffers(), before, strict=True):
            buffer.copy_(value)
        set_generator_state(generators)


def _check(kinds: Sequence[str], every: int, window: int, distiller: Distiller, roles: Sequence[str]) -> None:
    known = get_args(RecordKind)
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"SOLVER.RECORD: unknown '{kind}'{did_you_mean(kind, known) or '.'} Known: {', '.join(known)}")
    if every < 1:
        raise ConfigError(f"SOLVER.RECORD_EVERY must be at least 1, not {every}")
    if window < 2:
        raise ConfigError(f"SOLVER.RECORD_WINDOW must be at least 2, not {window}")
    method = method_name(distiller)
    if not distiller.can_be_captured:
        raise ConfigError(f"SOLVER.RECORD: a step of {method} changes Python values, and so would the record's forward pass")
    if "conflict" in kinds and len(roles) < 2:
        raise ConfigError(f"SOLVER.RECORD conflict needs loss components of two roles; {method} has {roles[0]} alone")
