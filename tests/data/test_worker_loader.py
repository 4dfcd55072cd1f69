"""The loader of image files: epochs, workers, ranks, pixels."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from mdistiller_ext.data.augment import STRONG
from mdistiller_ext.data.image_transforms import random_crop_box
from mdistiller_ext.data.loader import mix_seeds
from tests.support.images import MEAN, STD, create, epoch_of, files_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # machines of one core
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # Python 3.12 on fork
]


def test_a_loader_says_what_it_yields(tree: Path) -> None:
    train, test = create("folder", root=tree)
    assert (train.num_images, len(train), train.num_classes, train.image_shape) == (15, 4, 3, (3, 32, 32))
    assert (test.num_images, len(test), test.num_classes, test.image_shape) == (6, 2, 3, (3, 32, 32))
    batches = list(train)
    assert [images.shape for images, _ in batches] == [(4, 3, 32, 32)] * 3 + [(3, 3, 32, 32)]
    assert {(images.dtype, labels.dtype) for images, labels in batches} == {(torch.float32, torch.int64)}
    assert epoch_of(train)[1].sort().values.tolist() == sorted([0, 1, 2] * 5)
    assert epoch_of(test, 5)[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_an_epoch_is_the_same_with_and_without_workers(tree: Path) -> None:
    alone, _ = create("folder", root=tree, seed=3)
    helped, helped_test = create("folder", root=tree, seed=3, num_workers=2)
    first = [epoch_of(alone, epoch) for epoch in (1, 2)]
    next(iter(helped))  # a pass that is broken off leaves nothing behind
    for epoch in (2, 1):  # in whatever order, from the workers that stay
        images, labels = epoch_of(helped, epoch)
        assert torch.equal(images, first[epoch - 1][0])
        assert torch.equal(labels, first[epoch - 1][1])
    assert not torch.equal(first[0][1], first[1][1])
    assert epoch_of(helped_test)[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_what_an_image_becomes_depends_on_neither_batch_size_nor_order(tree: Path) -> None:
    def by_file(**options: Any) -> dict[str, Tensor]:
        loader, _ = create("folder", root=tree, **options)
        images, _ = epoch_of(loader, 1)
        order = [index for indices, _ in loader._keys for index in indices]  # type: ignore[union-attr]
        return dict(zip([files_of(loader)[index] for index in order], images, strict=True))  # type: ignore[arg-type]

    usual, other, new = by_file(), by_file(batch_size=7), by_file(seed=1)
    assert usual.keys() == other.keys() == new.keys()
    assert all(torch.equal(usual[file], other[file]) for file in usual)
    assert not any(torch.equal(usual[file], new[file]) for file in usual)


def test_no_global_generator_is_touched(tree: Path) -> None:
    for workers in (0, 1):
        train, test = create("folder", root=tree, strong=STRONG, num_workers=workers)
        state = torch.get_rng_state()
        epoch_of(train, 1)
        epoch_of(test, 1)
        assert torch.equal(state, torch.get_rng_state())


def test_images_equal_a_pipeline_of_torchvisions_written_by_hand(tree: Path) -> None:
    train, test = create("folder", root=tree, image_size=28, seed=5)
    files = [tree / "train" / name for name in files_of(train)]  # type: ignore[arg-type]
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    epoch_seed = mix_seeds(5, 2)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(epoch_seed)).tolist()
    expected = []
    for index in order:
        generator = random.Random(epoch_seed << 32 | index)
        image = Image.open(files[index])
        image = v2.functional.resized_crop(image, *random_crop_box(image.height, image.width, generator), [28, 28])
        expected.append(v2.Compose([v2.RandomHorizontalFlip(generator.random() < 0.5), *to_tensor])(image))
    one_level = 1.001 / 255 / min(STD)  # of 256, by which torch's resized pixels differ from PIL's
    torch.testing.assert_close(epoch_of(train, 2)[0], torch.stack(expected), rtol=0, atol=one_level)

    pipeline = v2.Compose([v2.Resize(32), v2.CenterCrop(28), *to_tensor])
    expected = [pipeline(Image.open(tree / "val" / name)) for name in files_of(test)]  # type: ignore[arg-type]
    torch.testing.assert_close(epoch_of(test)[0], torch.stack(expected), rtol=0, atol=one_level)


def test_the_memory_format_is_chosen_and_changes_nothing_else(tree: Path) -> None:
    channels_last, contiguous = (create("folder", root=tree, channels_last=chosen)[0] for chosen in (True, False))
    for (images, _), (same, _) in zip(channels_last, contiguous, strict=True):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert same.is_contiguous()
        assert torch.equal(images, same)


def test_mean_and_std_can_be_given(tree: Path) -> None:
    _, usual = create("folder", root=tree)
    _, test = create("folder", root=tree, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    pixels = epoch_of(usual)[0] * std + mean
    torch.testing.assert_close(epoch_of(test)[0], (pixels - 0.5) / 0.25, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (3, 2), (4, 0)])
def test_several_processes_share_an_epoch(tree: Path, world_size: int, workers: int) -> None:
    sizes = {"batch_size": 7, "test_batch_size": 5}  # the last batches are of one image, in training and in the test
    ranks = [
        create("folder", root=tree, num_workers=workers, rank=r, world_size=world_size, **sizes) for r in range(world_size)
    ]
    for which, alone in enumerate(create("folder", root=tree, **sizes)):
        alone.set_epoch(2)
        whole = list(alone)
        assert len(whole[-1][1]) == 1
        for rank, loaders in enumerate(ranks):
            loader = loaders[which]
            assert (len(loader), loader.num_images) == (len(alone), alone.num_images)
            for first_batch in range(len(whole) + 1):
                loader.set_epoch(2, first_batch)
                for (images, labels), (all_images, all_labels) in zip(loader, whole[first_batch:], strict=True):
                    assert torch.equal(images, all_images[rank::world_size])
                    assert torch.equal(labels, all_labels[rank::world_size])
                if first_batch < len(whole):
                    assert images.shape == (1 if rank == 0 else 0, 3, 32, 32)
            loader.close()  # type: ignore[union-attr]


def test_a_closed_loader_has_no_workers_and_can_start_others(tree: Path) -> None:
    train, _ = create("folder", root=tree, num_workers=1)
    expected = epoch_of(train, 1)[1]
    (worker,) = multiprocessing.active_children()
    train.close()  # type: ignore[union-attr]
    assert not worker.is_alive()
    train.close()  # type: ignore[union-attr]
    assert torch.equal(epoch_of(train, 1)[1], expected)
    train.close()  # type: ignore[union-attr]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_views_are_augmented_independently_and_the_index_names_the_file(tree: Path, num_workers: int) -> None:
    plain, _ = create("folder", root=tree, seed=3)
    loader, test = create("folder", root=tree, seed=3, num_workers=num_workers, views=("weak", "strong"), with_index=True)
    for (images, labels, index), (weak, same) in zip(loader, plain, strict=True):
        assert images.shape == (len(labels), 2, 3, 32, 32)
        assert torch.equal(images[:, 0], weak)
        assert torch.equal(labels, same)
        assert torch.equal(labels, loader.labels[index])
        assert all((view != other).any() for view, other in images)
    empty, _ = create("folder", root=tree, batch_size=7, views=("weak", "strong"), rank=1, world_size=2)
    assert [images.shape for images, _ in empty] == [(3, 2, 3, 32, 32), (3, 2, 3, 32, 32), (0, 2, 3, 32, 32)]
    assert [len(batch) for batch in test] == [2, 2]
    assert next(iter(test))[0].ndim == 4
