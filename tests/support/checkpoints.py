"""Checkpoints as others write them, and files that would run code."""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mdistiller_ext import checkpoint, weights


def load_weights(model: nn.Module, path: Path, **options: Any) -> list[str]:
    """Load a file into a model; the entries that were not loaded."""
    return weights.load_state_dict(model, checkpoint.load(path), path, **options)


def upstream_like() -> dict[str, Any]:
    """What mdistiller's and RepDistiller's checkpoints hold."""
    model = OrderedDict(weight=torch.randn(4, 3), bias=torch.zeros(4), num_batches_tracked=torch.tensor(5))
    optimizer = {
        "state": {0: {"momentum_buffer": torch.randn(4, 3)}},
        "param_groups": [{"lr": np.float64(0.05), "params": [0]}],
    }
    return {
        "epoch": 240,
        "model": model,
        "optimizer": optimizer,
        "best_acc": np.float64(72.5),
        "accuracy": np.float32(1.5),
        "opt": argparse.Namespace(model="resnet8x4", lr_decay_epochs=[150, 180]),
    }


class Calls:
    """Pickled, it asks the reader to call ``function(*arguments)`` and to give the result ``state``."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def traps(target: Path) -> dict[str, Any]:
    """Objects that make the file ``target`` when they are unpickled without care."""
    return {
        "posix.system": Calls(os.system, f"touch '{target}'"),
        "eval": Calls(eval, f"open({str(target)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(target)!r}, 'w')"),
        "io.open": Calls(open, str(target), "w"),
    }


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
