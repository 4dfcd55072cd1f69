"""Image files are classified as a run's test images are."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from mdistiller_ext import predict
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.data import create_plain_loader
from mdistiller_ext.data.rendering import CHARACTERS
from mdistiller_ext.deployment import open_student
from tests.support.configs import write
from tests.support.programs import Finished, run_main
from tests.support.runs import assert_one_line_error

COUNT = 64


@pytest.fixture(scope="module")
def images(glyphs_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of the runs below, in a folder for every ten."""
    folder = tmp_path_factory.mktemp("images")
    loader = create_plain_loader("glyphs", root=glyphs_root, limit=COUNT, batch_size=COUNT)
    for index, image in enumerate(loader.images):
        (folder / f"{index // 10}").mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index // 10}" / f"{index:02}.png")
    return folder


def settings_of_a_run(method: str, glyphs_root: Path, teacher_file: Path) -> list[str]:
    """A step of resnet8."""
    settings = f"DATASET.TYPE glyphs DATASET.ROOT {glyphs_root} DATASET.LIMIT {COUNT} DISTILLER.TYPE {method}"
    settings += f" DISTILLER.STUDENT resnet8 DISTILLER.TEACHER resnet8 DISTILLER.TEACHER_CKPT {teacher_file}"
    return f"{settings} SOLVER.EPOCHS 1 SOLVER.BATCH_SIZE {COUNT} SOLVER.DEVICE cpu".split()


@pytest.fixture(scope="module")
def trained(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    build_trainer(load_config(None, settings_of_a_run("KD", glyphs_root, teacher_file)), folder).train()
    return folder


def run_predict(*words: object) -> Finished:
    return run_main(predict.main, "predict", *words, "--device", "cpu")


@pytest.mark.parametrize("method", ["KD", "SIMKD"])
def test_a_folder_of_test_images_gives_the_predictions_of_the_evaluation(
    images: Path, glyphs_root: Path, teacher_file: Path, tmp_path: Path, method: str
) -> None:
    trainer = build_trainer(load_config(None, settings_of_a_run(method, glyphs_root, teacher_file)), tmp_path / "run")
    trainer.train()
    student = trainer.distiller.student.eval()
    with torch.no_grad():
        expected, predicted = torch.cat([student(batch)[0] for batch, _ in trainer.test_loader]).softmax(dim=1).max(dim=1)
    finished = run_predict(tmp_path / "run", images, "--top", 2, "--batch-size", 25, "--csv", "-")  # by workers
    assert (finished.status, finished.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(finished.out)))
    assert [Path(row["path"]).stem for row in rows] == [f"{index:02}" for index in range(COUNT)]
    assert [CHARACTERS.index(row["class_1"]) for row in rows] == predicted.tolist()
    assert [float(row["probability_1"]) for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(expected.unique()) > COUNT / 2
    for row in rows:
        assert row["class_1"] != row["class_2"]
        assert 1 >= float(row["probability_1"]) >= float(row["probability_2"]) > 0


def test_probabilities_are_the_softmax_of_the_logits_and_batches_do_not_matter(trained: Path, images: Path) -> None:
    student = open_student(trained)
    files = predict.find_images([images / "0", images / "6" / "60.png"])
    assert len(files) == 11
    everything = list(predict.predict(student, files, top=len(student.classes)))
    with torch.no_grad():
        logits = student.classifier(torch.stack([student.preprocessing(file) for file in files]))
    for prediction, expected in zip(everything, logits.softmax(dim=1), strict=True):
        found = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        assert [found[name] for name in CHARACTERS] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)
    for small in predict.predict(student, files, batch_size=3), predict.predict(student, files):
        assert [each.classes for each in small] == [each.classes[:5] for each in everything]


def test_text_has_at_most_80_columns_and_no_control_characters() -> None:
    names = ("cat", "a very long name, as many of ImageNet's classes have one, " * 3)
    path = f"folder{'/deep' * 30}/\x1b[31mimage.png"
    block = predict.Prediction(path, names, (0.75, 0.25)).text()
    single = predict.Prediction(path, names[1:], (0.00012,)).text()
    assert block.splitlines()[1:] == [" 75.00 %  cat", f" 25.00 %  {names[1][:69]}…"]
    assert max(map(len, block.splitlines())) == 80
    assert len(single) == 80
    assert single.startswith("  0.01 %  a very long name, as ma…  …")
    for text in (block, single):
        assert text.rstrip().splitlines()[0].endswith(r"\x1b[31mimage.png")


@pytest.mark.filterwarnings("default::mdistiller_ext.errors.Note")
def test_files_that_cannot_be_read_are_errors_or_skipped(trained: Path, images: Path, tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes((images / "0" / "00.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no image")
    assert_one_line_error(run_predict(trained, tmp_path), f"{tmp_path / 'b.png'} is no readable image")
    table = tmp_path / "new" / "table.csv"
    skipped = run_predict(trained, tmp_path, "--on-error", "skip", "--csv", table, "--batch-size", 1)
    assert (skipped.status, skipped.out) == (0, f"{table}\n")
    assert skipped.err.startswith(f"note: skipped: {tmp_path / 'b.png'} is no readable image")
    paths = [row["path"] for row in csv.DictReader(table.read_text().splitlines())]
    assert paths == [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
    assert_one_line_error(run_predict(trained, tmp_path / "b.png", "--on-error", "skip"), "b.png is no readable image")


def test_a_name_that_is_not_utf_8_keeps_its_bytes_in_the_csv(trained: Path, images: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(name)).write_bytes((images / "0" / "00.png").read_bytes())
    assert run_predict(trained, tmp_path, "--csv", tmp_path / "table.csv").status == 0
    assert name in (tmp_path / "table.csv").read_bytes()
    assert "\\udcff.png" in run_predict(trained, tmp_path).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{run} {tmp}", "no images in folder {tmp} (files with the suffix .jpg "),
        ("{run} {tmp}/no", "no such image file or folder: {tmp}/no"),
        ("{tmp} {images}", "no run in {tmp}: it has no config.yaml"),
        (
            "{run}/student_3 {images}",
            "no student: {run}/student_3 does not exist; that folder has student_best, ",
        ),
        ("{run} {images} --top 101", "--top must be between 1 and 100, the number of the student's classes, not 101"),
        ("{run} {images} --top 0", "--top must be at least 1, not 0"),
        ("{run} {corrupt} --csv {tmp}", "--csv {tmp} is a folder: name a file"),
        ("{run} {images} --batch-size 0", "batch_size must be at least 1, got 0"),
        ("{run}", "the following arguments are required: IMAGE"),
    ],
)
def test_a_mistake_is_one_line(trained: Path, images: Path, tmp_path: Path, words: str, message: str) -> None:
    corrupt = write(tmp_path / "corrupt.txt", "no image")  # its own message, if it is read
    places = {"run": trained, "images": images, "tmp": tmp_path, "corrupt": corrupt}
    assert_one_line_error(run_predict(*words.format(**places).split()), message.format(**places))
