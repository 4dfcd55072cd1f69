"""Averages on the device."""

from __future__ import annotations

import torch

from mdistiller_ext.meters import Averages


def test_averages_start_again_in_the_same_memory() -> None:
    averages = Averages(["loss"])
    averages.update({"loss": torch.tensor(6.0)}, 2)
    memory = averages.sums
    averages.reset()
    averages.update({"loss": torch.tensor(4.0)}, 4)
    assert averages.sums is memory
    assert averages.read() == {"loss": 1.0}
