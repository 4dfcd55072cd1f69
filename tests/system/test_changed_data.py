"""Runs, teachers and evaluations on data that have changed since."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdistiller_ext import checkpoint
from mdistiller_ext.data import DataIdentity
from tests.support.programs import run_program
from tests.support.runs import FILES, assert_notes, assert_one_line_error
from tests.support.trees import CHANGES, add_training_image, identity_of, rename_class, write_tree

pytestmark = pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")


NETWORK = "torchvision/shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any]]:
    """A tree, the folder of a run on it, and the run's arguments."""
    prefix = tmp_path_factory.mktemp("trained")
    arguments = [*FILES, "DATASET.TYPE", "folder", "DISTILLER.STUDENT", NETWORK, "LOG.PREFIX", prefix, "SOLVER.EPOCHS", 2]
    root = write_tree(prefix / "tree")
    arguments += ["DATASET.ROOT", root]
    finished = run_program("train.py", *arguments, "LOG.SAVE_CHECKPOINT_FREQ", 1)
    assert (finished.status, finished.err) == (0, "")
    return root, prefix / "p/run", arguments


def changed(trained: tuple[Path, Path, list[Any]], tmp_path: Path, change: Callable[[Path], Any]) -> list[Any]:
    """The setting of DATASET.ROOT that names a changed copy of the tree."""
    root = tmp_path / "changed"
    shutil.copytree(trained[0], root)
    change(root)
    return ["DATASET.ROOT", root]


def test_every_file_of_a_run_carries_the_identity_and_the_folder_the_classes(trained: tuple[Path, Path, list[Any]]) -> None:
    root, folder, _ = trained
    expected = identity_of(root)
    files = ["latest", "previous", "best", "epoch_1", "student_latest", "student_best", "student_1"]
    assert [DataIdentity.from_plain(checkpoint.load(folder / name)["data"]) for name in files] == [expected] * len(files)
    assert (folder / "classes.txt").read_text() == "bird\ncat\ndog\n"


def test_evaluation_on_other_classes_is_refused(trained: tuple[Path, Path, list[Any]], tmp_path: Path) -> None:
    settings = changed(trained, tmp_path, rename_class)
    for asked in (["-c", trained[1]], ["-c", trained[1] / "best", "-m", NETWORK]):
        refused = run_program("eval.py", *asked, *settings)
        assert_one_line_error(refused, str(trained[1]), "missing classes bird; new classes parrot", "DATASET.ROOT")


def test_evaluation_on_other_test_images_is_noted(trained: tuple[Path, Path, list[Any]], tmp_path: Path) -> None:
    settings = changed(trained, tmp_path, lambda root: (root / "val/cat/001.jpg").unlink())
    shutil.rmtree(tmp_path / "changed/train")
    evaluated = run_program("eval.py", "-c", trained[1], *settings)
    assert evaluated.status == 0, evaluated.err
    assert_notes(evaluated.err, f"{trained[1]} was trained with another test set: test images 6 -> 5")
    same = run_program("eval.py", "-c", trained[1])
    assert (same.status, same.err) == (0, "")


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_run_does_not_go_on_with_other_data(
    trained: tuple[Path, Path, list[Any]], tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    _, folder, arguments = trained
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    refused = run_program("train.py", "--resume", *arguments, *changed(trained, tmp_path, change))
    assert_one_line_error(refused, f"the run in {folder} began with ({said}", "put those back, or start a new run")
    assert {file: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_a_run_goes_on_where_its_data_have_moved(trained: tuple[Path, Path, list[Any]], tmp_path: Path) -> None:
    resumed = run_program("train.py", "--resume", *trained[2], *changed(trained, tmp_path, lambda root: None))
    assert (resumed.status, resumed.err) == (0, "")


def test_a_teacher_of_other_classes_is_refused_and_one_of_other_images_is_not(
    trained: tuple[Path, Path, list[Any]], tmp_path: Path
) -> None:
    _, folder, arguments = trained
    arguments = [*arguments, *changed(trained, tmp_path, add_training_image), "LOG.PREFIX", tmp_path]
    teacher = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", NETWORK, "DISTILLER.TEACHER_CKPT", folder]
    taught = run_program("train.py", *arguments, *teacher)
    assert (taught.status, taught.err) == (0, "")
    rename_class(tmp_path / "changed")
    refused = run_program("train.py", *arguments, *teacher, "EXPERIMENT.NAME", "other")
    assert_one_line_error(refused, f"{folder}/student_latest", "missing classes bird; new classes parrot")
    started = run_program("train.py", *arguments, "DISTILLER.STUDENT_CKPT", folder)  # what it starts from it may unlearn
    assert (started.status, "earlier run" in started.out) == (0, True), started.err
