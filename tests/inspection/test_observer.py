"""What is recorded during an evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext.data import InMemoryLoader
from mdistiller_ext.evaluate import evaluate
from mdistiller_ext.inspection import observer as module
from mdistiller_ext.inspection.observer import Mistakes, Observer, Predictions
from mdistiller_ext.inspection.teacher import Teacher
from tests.support.images import MEAN, STD, random_images

COUNT, CLASSES = 50, 4


class Network(nn.Module):
    """A linear classifier that returns features, as those of the zoos do."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(3 * 32 * 32, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.linear(images.flatten(1)), {}


def loader_of(rank: int = 0, world_size: int = 1) -> InMemoryLoader:
    labels = torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(2))
    return InMemoryLoader(
        random_images(COUNT),
        labels,
        batch_size=7,
        mean=MEAN,
        std=STD,
        num_classes=CLASSES,
        with_index=True,
        rank=rank,
        world_size=world_size,
    )


def observe(rank: int = 0, world_size: int = 1) -> tuple[Observer, dict[str, float]]:
    observer = Observer(loader_of(rank, world_size), Teacher(Network(1)), mistakes=6)
    return observer, evaluate(Network(0), observer.loader, observer)


def assert_equal(found: Predictions | Mistakes, expected: Predictions | Mistakes) -> None:
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value)


def test_predictions_and_the_most_confident_mistakes_are_those_of_the_whole_test_set() -> None:
    observer, result = observe()
    predictions, mistakes = observer.gather()
    loader = loader_of()
    images = torch.cat([images for images, *_ in loader])
    probability, predicted = Network(0)(images)[0].detach().softmax(dim=1).max(dim=1)
    expected = Predictions(torch.arange(COUNT), loader.labels, predicted, probability, Network(1)(images)[0].argmax(dim=1))
    assert_equal(predictions, expected)
    assert 100 * (predictions.labels == predictions.predicted).double().mean() == pytest.approx(result["top1"])
    wrong = sorted((predicted != loader.labels).nonzero()[:, 0].tolist(), key=lambda place: -float(probability[place]))
    assert len(wrong) > 6
    assert mistakes.places.tolist() == wrong[:6]
    assert torch.equal(mistakes.pixels, loader.images[wrong[:6]])  # the normalization is undone exactly


def test_several_ranks_record_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = observe()[0].gather()
    ranks = [observe(rank, 3)[0] for rank in range(3)]
    handed: list[object] = []
    monkeypatch.setattr(module, "all_gather_object", lambda value: handed.append(value) or [value])
    for each in ranks:
        each.gather()
    columns, kept = handed[::2], handed[1::2]
    answers = iter([columns, kept])
    monkeypatch.setattr(module, "all_gather_object", lambda value: next(answers))
    for found, expected in zip(ranks[0].gather(), alone, strict=True):
        assert_equal(found, expected)


def test_equal_probabilities_keep_the_first_images() -> None:
    observer = Observer(loader_of(), mistakes=3)
    for images, labels, index in loader_of():
        observer(torch.zeros(len(labels), CLASSES), images, labels, index)
    predictions, mistakes = observer.gather()
    assert mistakes.places.tolist() == (predictions.labels != predictions.predicted).nonzero()[:3, 0].tolist()
    assert predictions.teacher is None


def test_a_network_without_mistakes_has_none() -> None:
    observer = Observer(loader_of())
    for images, labels, index in loader_of():
        observer(nn.functional.one_hot(labels, CLASSES).float(), images, labels, index)
    _, mistakes = observer.gather()
    assert mistakes.places.shape == (0,)
    assert mistakes.pixels.shape == (0, 3, 32, 32)
