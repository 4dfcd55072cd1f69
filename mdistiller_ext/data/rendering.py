"""Render characters as small colour images, with matplotlib's fonts."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Split

CHARACTERS = (  # digits, letters, signs, accented letters
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!?&@#$%+*=/|<>€£éèêëàâäåçñöôõøüùûíìîïß"
)
FACES = (  # each contains all characters
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
)

_SIZE = 32  # pixels; edge of an image
_EM, _CANVAS = 32, 64  # pixels; of the masks that images are resampled from
_FRAGMENT_DISTANCE = (8, 14)  # pixels from the centre of the image
_FRAGMENT_OPACITY = 0.5
_CHUNK = 1000  # images rendered at a time; all at once would take 500 MB


@dataclass(frozen=True)
class Rendering:
    """Distribution of the images of a character; pairs of numbers are bounds of uniform distributions.

    Attributes:
        em: font size in pixels.
        rotation, shear, shift: largest angle in degrees, shear, and translation in pixels, in either direction.
        contrast: difference of ink and background in each colour channel, of 0..1.
        clouds: points per edge of the background's variation, and its standard deviation.
        noise: standard deviation of the noise of a pixel.
        fragments: number of other characters behind, off centre and half transparent, in any colour.
    """

    em: tuple[float, float] = (20, 30)
    rotation: float = 15
    shear: float = 0.2
    shift: float = 2
    contrast: tuple[float, float] = (0.3, 0.7)
    clouds: tuple[int, float] = (4, 0.12)
    noise: float = 0.06
    fragments: int = 0


def render(rendering: Rendering, count: int, seed: int) -> Split:
    """Render ``count`` images, uint8 ``[count, 3, 32, 32]``, with labels, int64 ``[count]``, balanced and shuffled."""
    rng = np.random.default_rng(seed)
    masks = _masks()
    labels = torch.from_numpy(rng.permutation(np.arange(count) % len(CHARACTERS)))
    images = [_draw(rendering, masks, part, rng) for part in labels.split(_CHUNK)]
    return torch.cat(images), labels


def _draw(rendering: Rendering, masks: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Render images, uint8 ``[B, 3, 32, 32]``, of the characters ``labels``."""
    batch = len(labels)
    ink = _ink(rendering, masks, labels, rng)

    # Ink and background differ in every colour channel.
    paper = rng.random((batch, 3, 1, 1), dtype=np.float32)
    colour = (paper + rng.uniform(*rendering.contrast, paper.shape).astype(np.float32)) % 1
    points, spread = rendering.clouds
    clouds = torch.from_numpy(rng.normal(0, spread, (batch, 3, points, points)).astype(np.float32))
    background = torch.from_numpy(paper) + F.interpolate(clouds, size=(_SIZE, _SIZE), mode="bicubic")
    noise = torch.from_numpy(rng.standard_normal((batch, 3, _SIZE, _SIZE), dtype=np.float32))
    for _ in range(rendering.fragments):
        others = (labels + torch.from_numpy(rng.integers(1, len(CHARACTERS), batch))) % len(CHARACTERS)
        other_colour = torch.from_numpy(rng.random((batch, 3, 1, 1), dtype=np.float32))
        fragment = _ink(rendering, masks, others, rng, distance=_FRAGMENT_DISTANCE)
        background = torch.lerp(background, other_colour, _FRAGMENT_OPACITY * fragment)

    image = torch.lerp(background, torch.from_numpy(colour), ink).add_(noise, alpha=rendering.noise)
    return image.mul_(255).round_().clamp_(0, 255).byte()


def _ink(
    rendering: Rendering,
    masks: Tensor,
    labels: Tensor,
    rng: np.random.Generator,
    distance: tuple[float, float] | None = None,
) -> Tensor:
    """Coverage of each pixel by the characters ``labels``, float32 ``[B, 1, 32, 32]`` in 0..1.

    Args:
        distance: bounds of the distance of the character from the centre of the image, in pixels; None: as ``rendering``.
    """
    batch = len(labels)
    per_image = (batch, 1, 1)
    faces = torch.from_numpy(rng.integers(len(FACES), size=batch))
    em = rng.uniform(*rendering.em, per_image)
    angle = np.radians(rng.uniform(-rendering.rotation, rendering.rotation, per_image))
    shear = rng.uniform(-rendering.shear, rendering.shear, per_image)
    if distance is None:
        shift_x, shift_y = rng.uniform(-rendering.shift, rendering.shift, (2, *per_image))
    else:
        length, direction = rng.uniform(*distance, per_image), rng.uniform(0, 2 * np.pi, per_image)
        shift_x, shift_y = length * np.cos(direction), length * np.sin(direction)
    pixels = np.arange(_SIZE) - (_SIZE - 1) / 2  # relative to the centre of the image
    y = pixels[:, None] + shift_y
    x = pixels + shift_x + shear * y
    points = np.stack([np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x], axis=-1)
    points *= (_EM / em)[..., None] * 2 / _CANVAS  # the mask spans -1..1
    return F.grid_sample(masks[faces, labels], torch.from_numpy(points.astype(np.float32)), align_corners=False)


@functools.cache
def _masks() -> Tensor:
    """Render every character in every face, centred, float32 ``[faces, characters, 1, 64, 64]`` in 0..1."""
    import matplotlib  # slow to import, and needed for its font files alone
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    masks = np.empty((len(FACES), len(CHARACTERS), 1, _CANVAS, _CANVAS), np.float32)
    for face, face_masks in zip(FACES, masks, strict=True):
        font = ImageFont.truetype(str(folder / f"{face}.ttf"), _EM)
        for character, mask in zip(CHARACTERS, face_masks, strict=True):
            left, top, right, bottom = font.getbbox(character)
            canvas = Image.new("L", (_CANVAS, _CANVAS))
            place = (_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2
            ImageDraw.Draw(canvas).text(place, character, fill=255, font=font)
            mask[0] = np.asarray(canvas)
    return torch.from_numpy(masks).div_(255)
