"""ImageNet's directory layout, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdistiller_ext.errors import ConfigWarning, MissingFileError
from tests.support.images import create, files_of, write_classes, write_image


@pytest.mark.parametrize("folder", ["imagenet", "."])
def test_imagenet(tmp_path: Path, folder: str) -> None:
    write_classes(tmp_path / folder / "train", {"n02": 2, "n01": 3}, suffix=".JPEG")
    write_classes(tmp_path / folder / "val", {"n01": 1, "n02": 1}, suffix=".JPEG")
    train, test = create("imagenet", root=tmp_path, num_classes=2, image_size=0)
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert files_of(test) == ["n01/000.JPEG", "n02/000.JPEG"]
    assert train.image_shape == (3, 224, 224)
    with pytest.warns(ConfigWarning, match=rf"'imagenet' in {tmp_path} has 2 of 1000 classes.*DATASET.NUM_CLASSES 2"):
        train, _ = create("imagenet", root=tmp_path)
    assert train.num_classes == 1000  # a teacher of ImageNet still fits


def test_a_flat_validation_folder_is_explained(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"n01": 1, "n02": 1})
    write_image(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    write_image(tmp_path / "val/ILSVRC2012_val_00000002.JPEG")
    message = rf"{tmp_path}/val holds 2 images and no class folders.*cd {tmp_path}/val && curl -L https:\S+valprep.sh \| bash"
    with pytest.raises(MissingFileError, match=message):
        create("imagenet", root=tmp_path)
    with pytest.raises(MissingFileError, match="Sort them into folders named as those of train/: one folder per class"):
        create("folder", root=tmp_path)


def test_missing_imagenet_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=rf"train/ in {tmp_path}/imagenet and {tmp_path}\. .*image-net.org"):
        create("imagenet", root=tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(MissingFileError, match=f"{tmp_path}/val is missing"):
        create("imagenet", root=tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(MissingFileError, match=f"{tmp_path}/train has no class folders"):
        create("imagenet", root=tmp_path)
