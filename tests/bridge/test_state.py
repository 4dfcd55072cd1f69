"""What an upstream method keeps in places that state_dict does not see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mdistiller_ext.bridge.state import load_own_state, own_state
from mdistiller_ext.errors import ConfigError


class Keeper(nn.Module):
    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.layers = [nn.Linear(2, 2), student]
        self.register_buffer("memory", torch.rand(3))
        self.queues = {"a": torch.rand(2)}
        self.alias = self.memory
        self.calls = 0
        self.size = (32, 32)
        self.convolution = nn.Conv2d(1, 1, 1, bias=False)


def test_tensors_of_lists_and_dictionaries_and_numbers_are_kept_and_the_student_is_not() -> None:
    student = nn.Linear(1, 1)
    keeper = Keeper(student)
    of_convolution = {"convolution.weight"}  # and not the numbers of its kernel's size
    assert set(own_state(keeper, [student])) == {
        "layers.0.weight",
        "layers.0.bias",
        "memory",
        "queues.a",
        "calls",
        *of_convolution,
    }


def test_a_state_is_restored_in_place_and_what_came_later_is_made_again() -> None:
    student = nn.Linear(1, 1)
    first, second = Keeper(student), Keeper(student)
    first.calls, first.last = 7, torch.ones(2)  # type: ignore[assignment]
    state, weight = own_state(first, [student]), second.layers[0].weight
    load_own_state(second, [student], state, torch.device("cpu"))
    assert second.layers[0].weight is weight
    assert second.calls == 7
    assert torch.equal(second.queues["a"], first.queues["a"])
    assert torch.equal(second.last, torch.ones(2))  # type: ignore[arg-type]
    assert second.last is not first.last


def test_a_tensor_of_another_shape_is_refused() -> None:
    keeper = Keeper(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"memory has shape \[3\], in the checkpoint \[4\]"):
        load_own_state(keeper, [keeper.student], {"memory": torch.zeros(4)}, torch.device("cpu"))
