"""FixMatch's augmentation (Sohn et al., NeurIPS 2020): the strong view of MLKD and CRLD.

RandAugment with continuous random magnitudes, then a grey square: two of 14 operations, each drawn uniformly, with a magnitude
drawn uniformly from its range. The operations are torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_NUM_OPERATIONS = 2
_GREY = (125, 123, 114)  # red, green and blue of the square
_LARGEST_SQUARE = 0.5  # of the width

# Name -> range of the magnitude. Factors below 1 darken, fade or blur; angles are degrees, shifts fractions of an edge.
RANGES: Mapping[str, tuple[float, float]] = {
    "autocontrast": (0, 0),
    "brightness": (0.05, 0.95),
    "color": (0.05, 0.95),
    "contrast": (0.05, 0.95),
    "equalize": (0, 0),
    "identity": (0, 0),
    "posterize": (4, 8),
    "rotate": (-30, 30),
    "sharpness": (0.05, 0.95),
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "solarize": (0, 256),
    "translate_x": (-0.3, 0.3),
    "translate_y": (-0.3, 0.3),
}


def fixmatch(image: Tensor) -> Tensor:
    """Augment an image, uint8 ``[3, H, W]``, with random numbers of torch's global CPU generator."""
    for number in torch.randint(len(RANGES), (_NUM_OPERATIONS,)).tolist():
        name, (low, high) = list(RANGES.items())[number]
        image = apply(name, image, low + (high - low) * float(torch.rand(())))
    side, column, row = torch.rand(3).tolist()
    height, width = image.shape[1:]
    return grey_square(image, row * height, column * width, side * _LARGEST_SQUARE * width)


def apply(name: str, image: Tensor, magnitude: float) -> Tensor:
    """Apply the operation ``name`` of RANGES to an image, uint8 ``[3, H, W]``; geometric ones fill with black."""
    from torchvision.transforms.v2 import functional  # slow to import

    height, width = image.shape[1:]
    operations: dict[str, Callable[[], Any]] = {
        "autocontrast": lambda: functional.autocontrast(image),
        "brightness": lambda: functional.adjust_brightness(image, magnitude),
        "color": lambda: functional.adjust_saturation(image, magnitude),
        "contrast": lambda: functional.adjust_contrast(image, magnitude),
        "equalize": lambda: functional.equalize(image),
        "identity": lambda: image,
        "posterize": lambda: functional.posterize(image, int(magnitude)),
        "rotate": lambda: functional.rotate(image, magnitude),
        "sharpness": lambda: functional.adjust_sharpness(image, magnitude),
        "shear_x": lambda: _shift(image, shear=(_degrees(magnitude), 0.0)),
        "shear_y": lambda: _shift(image, shear=(0.0, _degrees(magnitude))),
        "solarize": lambda: torch.where(image >= magnitude, 255 - image, image),  # torchvision's: up to 255
        "translate_x": lambda: _shift(image, translate=(-round(magnitude * width), 0)),
        "translate_y": lambda: _shift(image, translate=(0, -round(magnitude * height))),
    }
    augmented: Tensor = operations[name]()
    return augmented


def grey_square(image: Tensor, row: float, column: float, side: float) -> Tensor:
    """Fill a square of an image, uint8 ``[3, H, W]``, centred at ``row``, ``column``, with grey; all in pixels.

    Above and to the left it is shifted into the image, below and to the right it is clipped, as in the release. Its last row
    and column are included.
    """
    if side <= 0:
        return image
    top, left = int(max(0, row - side / 2)), int(max(0, column - side / 2))
    image = image.clone()
    grey = torch.tensor(_GREY, dtype=image.dtype, device=image.device)
    image[:, top : int(top + side) + 1, left : int(left + side) + 1] = grey[:, None, None]
    return image


def _degrees(shear: float) -> float:
    return math.degrees(math.atan(shear))


def _shift(image: Tensor, *, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    from torchvision.transforms.v2 import functional

    shifted: Tensor = functional.affine(
        image, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear), center=[0.0, 0.0]
    )
    return shifted
