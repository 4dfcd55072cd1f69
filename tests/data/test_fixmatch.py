"""FixMatch's augmentation, against the operations of PIL that the releases call."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2 import functional

from mdistiller_ext.data.fixmatch import RANGES, apply, fixmatch, grey_square


def picture(size: int = 32) -> Image.Image:
    """A smooth image with a sharp edge, not symmetric, of more than its average brightness."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    image = torch.stack([40 + 6 * x, 250 - 5 * y, 60 + 3 * (x + y)]).clamp(0, 255).to(torch.uint8)
    image[:, 5:12, 20:26] = torch.tensor([200, 20, 90], dtype=torch.uint8)[:, None, None]
    return functional.to_pil_image(image)


def affine(*matrix: float):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix)


PIL = {
    "autocontrast": (0, ImageOps.autocontrast),
    "brightness": (0.4, lambda image: ImageEnhance.Brightness(image).enhance(0.4)),
    "color": (0.4, lambda image: ImageEnhance.Color(image).enhance(0.4)),
    "contrast": (0.4, lambda image: ImageEnhance.Contrast(image).enhance(0.4)),
    "equalize": (0, ImageOps.equalize),
    "identity": (0, lambda image: image),
    "posterize": (5.7, lambda image: ImageOps.posterize(image, 5)),
    "rotate": (20, lambda image: image.rotate(20)),
    "sharpness": (0.4, lambda image: ImageEnhance.Sharpness(image).enhance(0.4)),
    "shear_x": (0.23, affine(1, 0.23, 0, 0, 1, 0)),
    "shear_y": (0.23, affine(1, 0, 0, 0.23, 1, 0)),
    "solarize": (128, lambda image: ImageOps.solarize(image, 128)),
    "translate_x": (0.25, affine(1, 0, 8, 0, 1, 0)),
    "translate_y": (0.25, affine(1, 0, 0, 0, 1, 8)),
}


def test_all_operations_are_compared_with_pil() -> None:
    assert PIL.keys() == RANGES.keys()


@pytest.mark.parametrize("name", PIL)
def test_an_operation_is_that_of_pil(name: str) -> None:
    magnitude, reference = PIL[name]
    image = functional.pil_to_tensor(picture())
    ours = apply(name, image, magnitude).int()
    theirs = functional.pil_to_tensor(reference(picture())).int()
    differ = (ours - theirs).abs().amax(dim=0)
    # Rounding to the nearest pixel or level; a pixel midway between two may be either.
    assert (differ > 3).float().mean() < 0.06
    if name != "identity":
        assert (ours - image).abs().float().mean() > 0.5


def test_solarize_inverts_nothing_above_the_largest_value() -> None:
    image = torch.tensor([0, 254, 255], dtype=torch.uint8).expand(3, 1, 3)
    assert apply("solarize", image, 254.5)[0].tolist() == [[0, 254, 0]]
    assert torch.equal(apply("solarize", image, 255.5), image)


def test_the_square_is_shifted_in_above_and_clipped_below() -> None:
    image = torch.zeros(3, 10, 10, dtype=torch.uint8)
    above, below = grey_square(image, 1, 1, 4), grey_square(image, 9, 8.5, 4)
    assert above[0].nonzero().amin(dim=0).tolist() == [0, 0]
    assert above[0].nonzero().amax(dim=0).tolist() == [4, 4]  # its last row and column are included
    assert below[0].nonzero().amin(dim=0).tolist() == [7, 6]
    assert below[0].nonzero().amax(dim=0).tolist() == [9, 9]
    assert above[:, 0, 0].tolist() == [125, 123, 114]
    assert torch.equal(grey_square(image, 5, 5, 0.0), image)


def test_images_are_augmented_differently_and_as_the_generator_says() -> None:
    image = functional.pil_to_tensor(picture())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [fixmatch(image) for _ in range(200)]
        torch.manual_seed(0)
        assert torch.equal(fixmatch(image), drawn[0])
    assert all(each.shape == image.shape and each.dtype == image.dtype for each in drawn)
    assert len({each.numpy().tobytes() for each in drawn}) > 195
    assert sum((each != image).any() for each in drawn) > 195
