"""CRD's positives and negatives."""

from __future__ import annotations

import pytest
import torch

from mdistiller_ext.bridge.contrast import ContrastiveIndex
from mdistiller_ext.errors import ConfigError

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])


def test_the_image_comes_first_and_distinct_images_of_other_classes_follow() -> None:
    drawn = ContrastiveIndex(LABELS, 5, "exact").draw(torch.tensor([1, 4]), LABELS[[1, 4]])
    assert drawn.shape == (2, 6)
    assert drawn[:, 0].tolist() == [1, 4]
    for row, label in zip(drawn, (0, 1), strict=True):
        assert (LABELS[row[1:]] != label).all()
        assert len(set(row[1:].tolist())) == 5


def test_with_too_few_images_of_other_classes_they_repeat() -> None:
    drawn = ContrastiveIndex(LABELS, 20, "exact").draw(torch.tensor([8]), torch.tensor([2]))
    assert drawn.shape == (1, 21)
    assert (LABELS[drawn[0, 1:]] != 2).all()


def test_a_relaxed_positive_is_any_image_of_the_class() -> None:
    relaxed = ContrastiveIndex(LABELS, 1, "relax")
    positives = {int(relaxed.draw(torch.tensor([0]), torch.tensor([0]))[0, 0]) for _ in range(50)}
    assert positives == {0, 1, 2}


def test_draws_follow_the_generator_that_checkpoints_keep() -> None:
    drawn = ContrastiveIndex(LABELS, 4, "exact")
    state = torch.get_rng_state()
    first = drawn.draw(torch.tensor([0, 5]), LABELS[[0, 5]])
    torch.set_rng_state(state)
    assert torch.equal(drawn.draw(torch.tensor([0, 5]), LABELS[[0, 5]]), first)


def test_another_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be exact or relax, not 'fast'"):
        ContrastiveIndex(LABELS, 4, "fast")
