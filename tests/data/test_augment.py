"""Augmentations: rotation against torchvision's, purity in the generator, the shape of holes, names and their order."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from mdistiller_ext.data.augment import (
    STRONG,
    Augment,
    crop_flip,
    cut_out,
    random_crop,
    random_crop_flip,
    random_cutout,
    random_rotate_flip,
    rotate_flip,
    strong_augment,
)
from mdistiller_ext.errors import UnknownNameError


def random_images(count: int, height: int = 32, width: int = 32) -> Tensor:
    """Images without a black pixel."""
    return torch.randint(1, 256, (count, 3, height, width), generator=seeded(0)).byte()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------- rotate and flip


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 48), (31, 31)])
def test_rotation_equals_torchvisions_but_for_rounding_ties(height: int, width: int) -> None:
    images = random_images(200, height, width)
    angles = torch.rand(200, generator=seeded(1)) * 360 - 180
    flip = torch.rand(200, generator=seeded(2)) < 0.5
    ours = rotate_flip(images, angles, flip)
    differ = 0
    for image, angle, mirrored, result in zip(images, angles, flip, ours, strict=True):
        expected = v2.functional.rotate(image, float(angle), interpolation=v2.InterpolationMode.NEAREST)
        expected = v2.functional.hflip(expected) if mirrored else expected
        differ += int((result != expected).any(0).sum())
    assert ours.dtype == torch.uint8
    assert differ / (200 * height * width) < 1e-4  # 2 in a million when this was written


def test_no_turn_a_right_angle_and_the_sense_of_rotation() -> None:
    images = random_images(4)
    angles, flip = torch.tensor([0.0, 90.0, 0.0, -90.0]), torch.tensor([False, False, True, True])
    expected = [images[0], images[1].rot90(1, (1, 2)), images[2].flip(2), images[3].rot90(-1, (1, 2)).flip(2)]
    assert torch.equal(rotate_flip(images, angles, flip), torch.stack(expected))


def test_corners_are_black_and_nothing_else_is() -> None:
    black = (rotate_flip(random_images(1, 64, 64), torch.tensor([20.0]), torch.tensor([False])) == 0).all(1)[0]
    assert black[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    assert not black[16:48, 16:48].any()


def test_angles_are_uniform_and_flips_even(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(images: Tensor, angles: Tensor, flip: Tensor) -> Tensor:
        return torch.stack([angles, flip])

    monkeypatch.setattr("mdistiller_ext.data.augment.rotate_flip", drawn)
    angles, flip = random_rotate_flip(torch.zeros(20_000, 3, 1, 1, dtype=torch.uint8), seeded(0))
    cells = torch.histc(angles, bins=40, min=-20, max=20)
    assert int(cells.sum()) == 20_000
    assert float(((cells - 500) ** 2 / 500).sum()) < 90  # 39 degrees of freedom: mean 39, standard deviation 9
    assert abs(float(flip.mean()) - 0.5) < 0.015
    assert abs(float(angles[flip.bool()].mean())) < 0.4  # one does not tell the other


# ------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    "augment",
    [random_crop, random_crop_flip, random_rotate_flip, random_cutout, *([name] for name in STRONG), list(STRONG)],
    ids=lambda a: "+".join(a) if isinstance(a, list) else getattr(a, "__name__", repr(a)),
)
def test_what_comes_out_depends_on_images_and_generator_alone(augment: Augment | list[str]) -> None:
    if isinstance(augment, list):
        augment = strong_augment(augment)
    images = random_images(16)
    before = images.clone()
    first = augment(images, seeded(3))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, other = augment(images, seeded(3)), augment(images, seeded(4))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(images, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.shape, first.dtype, first.device) == (images.shape, torch.uint8, images.device)


@pytest.mark.parametrize("name", STRONG)
def test_every_image_has_a_draw_of_its_own(name: str) -> None:
    images = random_images(1).expand(64, -1, -1, -1)
    out = strong_augment([name])(images, seeded(0))
    assert len(out.flatten(1).unique(dim=0)) > 10


# ------------------------------------------------------------------------------------------------------------- holes


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 16), (9, 12, 5)])
def test_cut_out_equals_one_image_at_a_time(height: int, width: int, side: int) -> None:
    images = random_images(60, height, width)
    rows, columns = (torch.randint(n, (60,), generator=seeded(n)) for n in (height, width))
    expected = images.clone()
    for image, row, column in zip(expected, rows.tolist(), columns.tolist(), strict=True):
        top, left = row - side // 2, column - side // 2
        image[:, max(top, 0) : top + side, max(left, 0) : left + side] = 0
    assert torch.equal(cut_out(images, rows, columns, side), expected)


def test_cutout_is_gdkds_square_of_16_anywhere() -> None:
    count = 20_000
    images = torch.full((count, 1, 32, 32), 255, dtype=torch.uint8)
    hole = random_cutout(images, seeded(0))[:, 0] == 0
    height, width = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(hole.sum((1, 2)), height * width)  # a rectangle
    for side in (height, width):
        assert (int(side.min()), int(side.max())) == (8, 16)  # a centre in a corner leaves a quarter
        assert abs(float(side.float().mean()) - 14) < 0.05  # the mean over the 32 centres

    top, left = (hole.any(axis).int().argmax(1) for axis in (2, 1))
    whole = (height == 16) & (width == 16)
    cells = torch.bincount((top * 17 + left)[whole & (top > 0) & (left > 0)], minlength=17 * 17).view(17, 17)[1:, 1:]
    expected = count / 32**2
    chi_square = float(((cells - expected) ** 2 / expected).sum())
    assert chi_square < 360  # 256 cells: mean 256, standard deviation 23


def test_a_quarter_of_the_images_is_erased_black() -> None:
    out = strong_augment(["erasing"])(random_images(2000), seeded(0))
    share = (out == 0).all(1).float().mean((1, 2))
    erased = share > 0
    assert abs(float(erased.float().mean()) - 0.25) < 0.04
    assert 0.01 < float(share[erased].min()) < float(share.max()) < 0.36  # 2 to 33 %, in whole pixels


# ---------------------------------------------------------------------------------------------------- names and order


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("autoaugment", v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128)),
        ("randaugment", v2.RandAugment(2, 9)),
        ("erasing", v2.RandomErasing(0.25)),
    ],
)
def test_policies_are_torchvisions(name: str, policy: v2.Transform) -> None:
    images = random_images(20)
    seed = int(torch.randint(2**31, (), generator=seeded(5)))
    torch.manual_seed(seed)
    expected = torch.stack([policy(image) for image in images])
    assert torch.equal(strong_augment([name])(images, seeded(5)), expected)


def test_they_run_in_the_given_order() -> None:
    images = random_images(32)
    generator = seeded(7)
    cut = strong_augment(["cutout"])(images, generator)
    expected = strong_augment(["autoaugment"])(cut, generator)
    assert torch.equal(strong_augment(["cutout", "autoaugment"])(images, seeded(7)), expected)
    last = strong_augment(["autoaugment", "cutout"])(images, seeded(7))
    assert ((last == 0).all(1).sum((1, 2)) >= 64).all()  # nothing paints over the hole


def test_without_names_nothing_changes() -> None:
    images = random_images(2)
    assert torch.equal(strong_augment([])(images, seeded(0)), images)


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        strong_augment(["autoaugment", "cutuot"])
    assert str(caught.value) == (
        "unknown augmentation 'cutuot'; did you mean 'cutout'? Known: autoaugment, randaugment, fixmatch, cutout, erasing"
    )


def test_they_can_be_sent_to_another_process() -> None:
    augment = strong_augment(STRONG)
    images = random_images(4)
    assert torch.equal(pickle.loads(pickle.dumps(augment))(images, seeded(0)), augment(images, seeded(0)))


# ------------------------------------------------------------------------------------------------------- crop, flip


@pytest.mark.parametrize(("height", "width", "padding"), [(32, 32, 4), (8, 6, 2), (5, 5, 0)])
def test_crop_flip_equals_one_image_at_a_time(height: int, width: int, padding: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50, 3, height, width), generator=generator).byte()
    top, left = torch.randint(2 * padding + 1, (2, 50), generator=generator)
    flip = torch.rand(50, generator=generator) < 0.5
    expected = []
    for image, y, x, mirrored in zip(images, top, left, flip, strict=True):
        padded = torch.zeros(3, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + height, padding : padding + width] = image
        window = padded[:, y : y + height, x : x + width]
        expected.append(window.flip(2) if mirrored else window)
    assert torch.equal(crop_flip(images, top, left, flip, padding), torch.stack(expected))


@pytest.mark.parametrize("augment", [random_crop, random_crop_flip])
def test_offsets_are_uniform_and_flips_even(augment: Augment) -> None:
    count = 20_000
    # Two marked pixels, one above the other in brightness, tell offset and flip from the augmented image alone.
    images = torch.zeros(count, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 15, 15], images[:, :, 15, 16] = 1, 2
    out = augment(images, torch.Generator().manual_seed(0)).flatten(1)
    bright, dim = (out == 2).int().argmax(1), (out == 1).int().argmax(1)
    flip = bright < dim
    assert int((out.sum(1) == 3).sum()) == count  # no pixel of these can leave the window
    row, column = dim // 32, torch.where(flip, 31 - dim % 32, dim % 32)
    cells = torch.bincount((row - 11) * 9 + (column - 11), minlength=81)
    assert len(cells) == 81
    expected = count / 81
    chi_square = float(((cells - expected) ** 2 / expected).sum())
    assert chi_square < 140  # 80 degrees of freedom: mean 80, and 140 is exceeded once in 20,000 times
    assert abs(float(flip.float().mean()) - (0.5 if augment is random_crop_flip else 0)) < 0.015
