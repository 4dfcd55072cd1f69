"""Average predictions of a teacher."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mdistiller_ext.analyze.teacher import average_predictions, class_statistics, teacher
from mdistiller_ext.errors import ConfigError, UnknownNameError

# A mixture: images of class 0 are predicted as 0 and 1 in turn, of class 1 as both at once, of class 2 surely as 2.
PREDICTIONS = torch.tensor(
    [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1], [0.01, 0.01, 0.97, 0.01]], dtype=torch.float64
)
LABELS = torch.tensor([0, 0, 1, 2])
LOGITS = PREDICTIONS.log() + torch.tensor([[3.0], [0.0], [-1.0], [7.0]])  # the same softmax
LOGITS[2, 0] += 1e-9  # the first of the two equal ones


def test_averages_of_a_mixture_with_and_without_the_first_class() -> None:
    mean, rest = average_predictions(LOGITS, LABELS, 1)
    assert mean[0].tolist() == pytest.approx([0.4, 0.4, 0.1, 0.1])
    assert rest[0].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3])
    assert rest[1].tolist() == pytest.approx([0, 2 / 3, 1 / 6, 1 / 6])
    assert mean[3].isnan().all()  # a class without images
    warm, _ = average_predictions(LOGITS, LABELS, 2)
    assert warm[1].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])


def test_statistics_of_a_mixture() -> None:
    found = class_statistics(LOGITS, LABELS, 1)

    def entropy(*p: float) -> float:
        return -sum(x * math.log(x) for x in p)

    assert found["entropy_of_images"][:2].tolist() == pytest.approx([entropy(0.7, *[0.1] * 3), entropy(0.4, 0.4, 0.1, 0.1)])
    assert found["entropy_of_mean"][:2].tolist() == pytest.approx([entropy(0.4, 0.4, 0.1, 0.1)] * 2)
    assert found["second_to_first"][:3].tolist() == pytest.approx([1, 1, 1 / 97])
    assert found["effective_rest"][2] == pytest.approx(3)
    assert found["effective_rest"][1] == pytest.approx(math.exp(entropy(2 / 3, 1 / 6, 1 / 6)))
    assert found["multimodal"][:3].tolist() == [0, 100, 0]
    assert class_statistics(LOGITS, LABELS, 4)["multimodal"][0] == 100  # (1/7)^(1/4) > 1/2


def test_of_runs(trained: Path) -> None:
    analysis = teacher([trained], limit=60, classes=(3, 7))
    assert len(analysis.rows) == 2 * 2 * 60  # augmentations, temperatures, classes of which there is an image
    assert [picture.name for picture in analysis.pictures] == ["t1", "t1_rest", "t4", "t4_rest"]
    of_weak = [row["entropy_of_mean"] for row in analysis.rows if row["augmentation"] == "weak"]
    of_strong = [row["entropy_of_mean"] for row in analysis.rows if row["augmentation"] == "autoaugment"]
    assert of_weak != of_strong
    assert teacher([trained], limit=60, classes=(3, 7)).rows == analysis.rows
    with pytest.raises(ConfigError, match="0 to 99, got 100"):
        teacher([trained], classes=(1, 100))
    with pytest.raises(UnknownNameError, match="autoaugment"):
        teacher([trained], limit=60, strong=("autoaugmnt",))
