"""``eval.py --report`` from end to end."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest
import torch

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.data import DataIdentity, InMemoryLoader
from mdistiller_ext.data.identity import SplitIdentity
from mdistiller_ext.data.rendering import CHARACTERS
from mdistiller_ext.inspection.figures import draw_confusion
from mdistiller_ext.inspection.report import class_names
from mdistiller_ext.models import create_model
from mdistiller_ext.reporting.drawing import style, svg_text
from tests.support.images import MEAN, STD, write_classes
from tests.support.programs import run_program
from tests.support.runs import assert_one_line_error

FILES = ["report.html", "per_class.csv", "confusion.csv", "predictions.csv"]
FILES += ["confusion.png", "confusion.svg", "mistakes.png"]


@pytest.fixture(scope="module")
def run(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of KD with a teacher in a folder of its own: two steps of resnet8, tested on 64 images."""
    folder = tmp_path_factory.mktemp("kd")
    (folder / "teacher.pth").write_bytes(teacher_file.read_bytes())
    settings = f"DATASET.TYPE glyphs DATASET.ROOT {glyphs_root} DATASET.LIMIT 64 DISTILLER.TYPE KD DISTILLER.STUDENT resnet8"
    settings += f" DISTILLER.TEACHER resnet8 DISTILLER.TEACHER_CKPT {folder / 'teacher.pth'}"
    settings += " SOLVER.EPOCHS 1 SOLVER.BATCH_SIZE 32 SOLVER.DEVICE cpu"
    build_trainer(load_config(None, settings.split()), folder / "run").train()
    return folder / "run"


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_the_report_of_a_run_holds_what_the_evaluation_measured(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    finished = run_program("eval.py", "-c", run, "--report", folder)
    assert (finished.status, finished.err) == (0, "")
    assert finished.out == run_program("eval.py", "-c", run).out + "".join(f"{folder / name}\n" for name in FILES)
    top1 = re.search(r"top-1 (\S+) %", finished.out)[1]  # type: ignore[index]
    predictions = rows(folder / "predictions.csv")
    assert [int(row["image"]) for row in predictions] == list(range(64))
    right = sum(row["true"] == row["predicted"] for row in predictions)
    assert f"{100 * right / 64:.2f}" == top1
    classes = rows(folder / "per_class.csv")
    assert [row["name"] for row in classes] == list(CHARACTERS)
    assert sum(float(row["accuracy"] or 0) * int(row["images"]) for row in classes) == pytest.approx(100 * right)
    matrix = list(csv.reader((folder / "confusion.csv").read_text().splitlines()))
    assert matrix[0] == ["true", *CHARACTERS]
    assert [row[0] for row in matrix[1:]] == list(CHARACTERS)
    assert sum(int(row[place]) for place, row in enumerate(matrix[1:], 1)) == right
    page = (folder / "report.html").read_text()
    assert f"resnet8 on glyphs: {top1} % top-1" in page
    equal = sum(row["teacher"] == row["predicted"] for row in predictions)
    agreement = '>equal predictions</th><td class="number">{}</td><td class="number">{:.2f}</td>'
    assert agreement.format(equal, 100 * equal / 64) in page
    assert "36 of 100 classes have no test images" in page
    assert page.count("<figure title=") == min(40, 64 - right)
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,|#)", page)  # no other file
    run_program("eval.py", "-c", run, "--report", tmp_path / "again")
    for name in FILES:  # the same evaluation gives the same files
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_teacher_that_is_missing_is_a_note_in_the_page(run: Path, tmp_path: Path) -> None:
    finished = run_program("eval.py", "-c", run, "--report", tmp_path, "DISTILLER.TEACHER_CKPT", tmp_path / "no.pth")
    assert (finished.status, finished.err) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert "not compared with the teacher: no checkpoint of teacher &#39;resnet8&#39; for glyphs: looked for" in page
    assert "Agreement with the teacher" not in page
    assert "teacher" not in rows(tmp_path / "predictions.csv")[0]


def test_the_default_teacher_is_reported_on(teacher_file: Path, glyphs_root: Path, tmp_path: Path) -> None:
    settings = ["DISTILLER.TEACHER_CKPT", teacher_file, "DATASET.ROOT", glyphs_root, "DATASET.LIMIT", 100]
    finished = run_program("eval.py", "-m", "resnet8", "-d", "glyphs", "-c", "pretrain", "--report", tmp_path, *settings)
    assert (finished.status, finished.err) == (0, "")
    assert 'role="note"' not in (tmp_path / "report.html").read_text()
    assert len(rows(tmp_path / "predictions.csv")) == 100


@pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")
def test_image_files_are_named_and_unreadable_ones_are_missing(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_classes(tmp_path / "data" / part, {"cat": 2, "dog": 3})
    (tmp_path / "data" / "val" / "cat" / "000.jpg").write_bytes(b"damaged")
    torch.save(create_model("MobileNetV1", dataset="imagenet", num_classes=2).state_dict(), tmp_path / "weights.pth")
    finished = run_program(
        *("eval.py", "-m", "MobileNetV1", "-c", tmp_path / "weights.pth", "-d", "folder", "--report", tmp_path / "report"),
        *("DATASET.ROOT", tmp_path / "data", "DATASET.IMAGE_SIZE", 80, "DATASET.ON_ERROR", "skip", "DATASET.NUM_WORKERS", 0),
    )
    assert finished.status == 0, finished.err
    found = rows(tmp_path / "report" / "predictions.csv")
    assert [(row["image"], row["true_name"], Path(row["file"]).name) for row in found] == [
        ("1", "cat", "001.jpg"),
        *((f"{2 + i}", "dog", f"00{i}.jpg") for i in range(3)),
    ]
    page = (tmp_path / "report" / "report.html").read_text()
    wrong = {row["file"] for row in found if row["true"] != row["predicted"]}
    assert set(re.findall(r'<figure title="(.+?)">', page)) == wrong
    assert "on the 5 test images" in finished.out
    assert "on 4 test images" in page


def test_names_of_classes_can_be_printed() -> None:
    images, labels = torch.zeros(2, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 1])
    identity = DataIdentity(("cat", os.fsdecode(b"d\xffg")), SplitIdentity.of_tensors((images, labels)))
    loader = InMemoryLoader(images, labels, batch_size=1, mean=MEAN, std=STD, identity=identity)
    assert class_names(loader) == ["cat", r"d\udcffg"]
    loader.identity = None
    assert class_names(loader) == ["0", "1"]


def test_a_folder_that_cannot_be_made_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_one_line_error(
        run_program("eval.py", "-c", run, "--report", tmp_path / "file"), "File exists", str(tmp_path / "file")
    )


@pytest.mark.parametrize("count", [3, 41, 1000])
def test_the_matrix_is_drawn_in_full_with_names_where_they_fit(count: int) -> None:
    with style():
        svg = svg_text(draw_confusion(torch.eye(count, dtype=torch.int64), [f"class {i}" for i in range(count)]))
    assert (">class 2<" in svg) == (count == 3)
    assert ("true class (number)" in svg) == (count > 3)
    assert (">right<" in svg) == (count <= 200)
    assert len(re.findall("<image", svg)) == 2  # the matrix, and the scale beside it


def test_blocks_of_many_classes_show_their_largest_confusion() -> None:
    matrix = 50 * torch.eye(401, dtype=torch.int64)
    matrix[0, 1], matrix[399, 7], matrix[398, 7] = 50, 25, 75
    image = next(iter(draw_confusion(matrix, ["name"] * 401).axes)).images[0]
    opacity = torch.as_tensor(image.get_array())[..., 3]
    assert opacity.shape == (134, 134)
    assert opacity.nonzero().tolist() == [[0, 0], [132, 2], [133, 2]]
    assert opacity[opacity > 0].square().tolist() == pytest.approx([50 / 100, 75 / 125, 25 / 75])
