"""An image file becomes the input that the dataloaders make of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller_ext.config import load_config
from mdistiller_ext.data import create_plain_loader
from mdistiller_ext.data.preprocessing import Preprocessing, preprocessing
from mdistiller_ext.networks import image_size as network_size
from mdistiller_ext.registry import DATASETS


def test_a_file_of_an_image_kept_in_memory_is_the_dataloaders_input(glyphs_root: Path, tmp_path: Path) -> None:
    loader = create_plain_loader("glyphs", root=glyphs_root, batch_size=1)
    image = loader.images[0]
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    prepare = preprocessing(DATASETS.get("glyphs"), 32)
    torch.testing.assert_close(prepare(tmp_path / "image.png"), next(iter(loader))[0][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dataset", "image_size", "expected"),
    [("imagenet", 0, (256, 224)), ("imagenet", 112, (128, 112)), ("cifar100", 0, (32, 32))],
)
def test_other_images_are_resized_and_cropped(tmp_path: Path, dataset: str, image_size: int, expected: tuple[int, int]) -> None:
    size = network_size(load_config(None, ["DATASET.TYPE", dataset, "DATASET.IMAGE_SIZE", image_size]))
    prepare = preprocessing(DATASETS.get(dataset), size, mean=(0, 0, 0), std=(1, 1, 1))
    assert prepare == Preprocessing(*expected, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    Image.fromarray(np.full((300, 500, 3), 255, np.uint8)).save(tmp_path / "white.jpg")
    assert prepare(tmp_path / "white.jpg").shape == (3, expected[1], expected[1])
    assert prepare(tmp_path / "white.jpg").min() == 1
