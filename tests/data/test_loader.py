"""The loader of data in memory: epochs, order, shares of ranks, normalisation."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from mdistiller_ext.data import InMemoryLoader
from mdistiller_ext.data.augment import Augment, random_crop_flip
from mdistiller_ext.data.rendering import Rendering, render
from mdistiller_ext.errors import ConfigError
from tests.support.images import epoch_of, random_images

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def make_loader(count: int = 100, seed: int = 0, augment: Augment | None = random_crop_flip) -> InMemoryLoader:
    """A shuffled loader whose labels tell the images apart."""
    return InMemoryLoader(
        random_images(count),
        torch.arange(count),
        batch_size=32,
        mean=MEAN,
        std=STD,
        augment=augment,
        shuffle=True,
        seed=seed,
    )


def test_an_epoch_is_a_pure_function_of_seed_and_epoch() -> None:
    first = epoch_of(make_loader(), 3)
    loader = make_loader()
    epoch_of(loader, 7)
    torch.manual_seed(123)
    again = epoch_of(loader, 3)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize(("seed", "epoch"), [(0, 4), (1, 3), (3, 0), (2**32, 3)])
def test_other_seeds_and_epochs_differ_in_order_and_in_crops(seed: int, epoch: int) -> None:
    images, labels = epoch_of(make_loader(), 3)
    other_images, other_labels = epoch_of(make_loader(seed=seed), epoch)
    assert not torch.equal(labels, other_labels)
    assert not torch.equal(images[labels.argsort()], other_images[other_labels.argsort()])


def test_no_global_generator_is_touched() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002 - the legacy state is the point
    epoch_of(make_loader(), 1)
    render(Rendering(), 100, seed=0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def test_every_image_comes_once_and_the_last_batch_is_kept() -> None:
    loader = make_loader(100, augment=None)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [32, 32, 32, 4]
    assert (len(loader), loader.num_images, loader.image_shape, loader.batch_size) == (4, 100, (3, 32, 32), 32)
    images, labels = epoch_of(loader, 0)
    assert torch.equal(labels.sort().values, torch.arange(100))
    plain = InMemoryLoader(loader.images, loader.labels, batch_size=100, mean=MEAN, std=STD)
    assert torch.equal(images, next(iter(plain))[0][labels])


def test_without_shuffle_the_order_is_the_files() -> None:
    loader = InMemoryLoader(random_images(10), torch.arange(10), batch_size=4, mean=MEAN, std=STD)
    assert torch.equal(epoch_of(loader, 5)[1], torch.arange(10))


@pytest.mark.parametrize("gathered", [32, 1024])
@pytest.mark.parametrize("augment", [None, random_crop_flip])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_several_processes_share_an_epoch(
    monkeypatch: pytest.MonkeyPatch, world_size: int, augment: Augment | None, gathered: int
) -> None:
    monkeypatch.setattr("mdistiller_ext.data.loader._GATHERED", gathered)
    make = functools.partial(
        InMemoryLoader, random_images(97), torch.arange(97), batch_size=32, mean=MEAN, std=STD, augment=augment
    )
    for shuffle in (True, False):
        alone = make(shuffle=shuffle)
        alone.set_epoch(2)
        whole = list(alone)
        assert [len(labels) for _, labels in whole] == [32, 32, 32, 1]
        for rank in range(world_size):
            loader = make(shuffle=shuffle, rank=rank, world_size=world_size)
            assert (len(loader), loader.num_images) == (4, 97)
            for first_batch in range(5):
                loader.set_epoch(2, first_batch)
                for (images, labels), (all_images, all_labels) in zip(loader, whole[first_batch:], strict=True):
                    assert torch.equal(images, all_images[rank::world_size])
                    assert torch.equal(labels, all_labels[rank::world_size])
                if first_batch < 4:
                    assert images.shape == (1 if rank == 0 else 0, 3, 32, 32)


def test_normalisation_equals_torchvision() -> None:
    from torchvision import transforms

    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    images = random_images(8)
    ours = next(iter(InMemoryLoader(images, torch.arange(8), batch_size=8, mean=MEAN, std=STD)))[0]
    theirs = torch.stack([reference(image.permute(1, 2, 0).numpy()) for image in images])
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        InMemoryLoader(random_images(1), torch.arange(1), batch_size=0, mean=MEAN, std=STD)


def test_the_index_names_each_image_in_the_training_set() -> None:
    images, labels = random_images(21), torch.arange(21) + 100
    for world_size in (1, 2):
        for rank in range(world_size):
            shared = {"batch_size": 8, "mean": MEAN, "std": STD, "shuffle": True, "rank": rank, "world_size": world_size}
            plain = InMemoryLoader(images, labels, **shared)
            for (x, y, index), (same_x, same_y) in zip(
                InMemoryLoader(images, labels, with_index=True, **shared), plain, strict=True
            ):
                assert torch.equal(y, labels[index])
                assert index.dtype == torch.int64
                assert torch.equal(x, same_x)
                assert torch.equal(y, same_y)
