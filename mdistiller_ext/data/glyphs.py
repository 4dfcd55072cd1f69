"""Glyphs: 100 characters rendered as 32x32 RGB images with matplotlib's fonts. No download.

Similar classes (O 0 Q, l I 1 |, é è ê ë) make a teacher's predictions for wrong classes informative. For trying methods and
for tests, not for results in papers.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checkpoint
from ..errors import UserError
from ..registry import register_dataset
from .augment import random_crop
from .base import InMemoryDataset, Split

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
VERSION = 1  # of the rendering, part of the cache's file name: increase it with every change of the images

_SIZE = 32  # pixels; edge of an image
_EM, _CANVAS = 32, 64  # pixels; of the masks that images are resampled from
_CHUNK = 1000  # images rendered at a time; all at once would take 500 MB


@register_dataset("glyphs")
class Glyphs(InMemoryDataset):
    """10,000 training and 2,000 test images `[3, 32, 32]` of 100 characters, the same on every run; cached below root.

    Augmented by random crops without flips: a mirrored b is a d.
    """

    classes = CHARACTERS
    num_classes = len(CHARACTERS)
    mean = (0.4943, 0.4960, 0.4959)
    std = (0.2930, 0.2928, 0.2921)
    augment = staticmethod(random_crop)
    teachers = "teachers/glyphs/{model}.pth"

    def load(self, root: Path) -> tuple[Split, Split]:
        """Both splits, from the cache or newly rendered."""
        return _cached(root, count=10_000, seed=0), self.load_test(root)

    def load_test(self, root: Path) -> Split:
        """The test split, from the cache or newly rendered."""
        return _cached(root, count=2_000, seed=1)


def draw_glyphs(count: int, seed: int) -> Split:
    """Render ``count`` images, uint8 ``[count, 3, 32, 32]``, with labels, int64 ``[count]``, balanced and shuffled."""
    rng = np.random.default_rng(seed)
    masks = _masks()
    labels = torch.from_numpy(rng.permutation(np.arange(count) % len(CHARACTERS)))
    images = [_draw(masks, part, rng) for part in labels.split(_CHUNK)]
    return torch.cat(images), labels


def _draw(masks: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Render images, uint8 ``[B, 3, 32, 32]``, of the characters ``labels``."""
    batch = len(labels)
    faces = torch.from_numpy(rng.integers(len(FACES), size=batch))
    ink = F.grid_sample(masks[faces, labels], _random_grid(batch, rng), align_corners=False)

    # Ink and background differ by at least 0.3 in every colour channel.
    paper = rng.random((batch, 3, 1, 1), dtype=np.float32)
    colour = (paper + rng.uniform(0.3, 0.7, paper.shape).astype(np.float32)) % 1
    clouds = torch.from_numpy(rng.normal(0, 0.12, (batch, 3, 4, 4)).astype(np.float32))
    background = torch.from_numpy(paper) + F.interpolate(clouds, size=(_SIZE, _SIZE), mode="bicubic")
    noise = torch.from_numpy(rng.standard_normal((batch, 3, _SIZE, _SIZE), dtype=np.float32))

    image = torch.lerp(background, torch.from_numpy(colour), ink).add_(noise, alpha=0.06)
    return image.mul_(255).round_().clamp_(0, 255).byte()


def _random_grid(batch: int, rng: np.random.Generator) -> Tensor:
    """Sampling grid of `grid_sample`, float32 ``[B, 32, 32, 2]``, with random size, rotation, shear and translation."""
    per_image = (batch, 1, 1)
    size = rng.uniform(20, 30, per_image)  # pixels per em
    angle = np.radians(rng.uniform(-15, 15, per_image))
    shear = rng.uniform(-0.2, 0.2, per_image)
    shift_x, shift_y = rng.uniform(-2, 2, (2, *per_image))  # pixels
    pixels = np.arange(_SIZE) - (_SIZE - 1) / 2  # relative to the centre of the image
    y = pixels[:, None] + shift_y
    x = pixels + shift_x + shear * y
    points = np.stack([np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x], axis=-1)
    points *= (_EM / size)[..., None] * 2 / _CANVAS  # the mask spans -1..1
    return torch.from_numpy(points.astype(np.float32))


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


def _cached(root: Path, count: int, seed: int) -> Split:
    """`draw_glyphs` with a cache on disk; an unreadable cache is replaced."""
    path = root / "glyphs" / f"glyphs-v{VERSION}-n{count}-seed{seed}.pt"
    try:
        saved = checkpoint.load(path)
        return saved["images"], saved["labels"]
    except (UserError, KeyError, TypeError):
        images, labels = draw_glyphs(count, seed)
    with contextlib.suppress(UserError, OSError):  # a read-only or full disk: continue without cache
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, {"images": images, "labels": labels})
    return images, labels
