"""Finding weights: missing files, misspelt names, and the advice for both."""

from __future__ import annotations

import pytest

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.errors import MissingFileError, UnknownNameError
from mdistiller_ext.weight_files import pretrained_path, student_path, teacher_path
from tests.support.programs import run_program
from tests.support.runs import assert_one_line_error


def test_the_advice_names_recipes_that_are_there() -> None:
    with pytest.raises(MissingFileError, match=r"train\.py --cfg configs/imagenet/none/MobileNetV1\.yaml"):
        teacher_path("MobileNetV1", "imagenet")


def test_the_advice_for_a_folder_says_where_it_is() -> None:
    with pytest.raises(MissingFileError, match=r"--cfg configs/folder/teachers/ResNet34\.yaml DATASET\.ROOT '/my images',"):
        teacher_path("ResNet34", "folder", "nowhere.pth", "/my images")
    overrides = ["DATASET.TYPE", "folder", "DATASET.ROOT", "/mine", "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "ResNet34"]
    student = ["DISTILLER.STUDENT", "ResNet18", "DISTILLER.STUDENT_CKPT", "random"]
    assert_one_line_error(run_program("train.py", *overrides, *student), "DATASET.ROOT /mine")


@pytest.mark.parametrize(("name", "dataset"), [("resnet8", "glyphs"), ("vgg13", "cifar100")])
def test_no_one_is_sent_to_train_a_small_network_on_imagenet(name: str, dataset: str) -> None:
    with pytest.raises(MissingFileError) as caught:
        pretrained_path(name, dataset)
    assert "train.py" not in str(caught.value)
    with pytest.raises(MissingFileError) as caught:
        student_path(name, dataset, "nowhere.pth")
    assert "train.py" not in str(caught.value)


def test_a_path_in_capitals_is_a_path() -> None:
    for path in ("MY/CKPT.PTH", "CKPT.PTH"):
        with pytest.raises(MissingFileError, match=f"no checkpoint of teacher 'ResNet34' for imagenet: looked for .*{path}"):
            teacher_path("ResNet34", "imagenet", path)


def test_a_misspelt_teacher_is_answered_with_the_nearest_name_and_not_with_a_download(tiny: list[str]) -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'resnet2O' for glyphs; did you mean 'resnet20'"):
        build_trainer(load_config(None, [*tiny, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet2O"]))
