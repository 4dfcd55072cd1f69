"""An exported file predicts as the student of its run, used by the printed lines alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from mdistiller_ext import checkpoint
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.deployment import open_student
from mdistiller_ext.errors import CorruptFileError
from mdistiller_ext.export.__main__ import main
from mdistiller_ext.export.description import beside, check
from mdistiller_ext.export.exporting import export_student
from mdistiller_ext.export.formats import FORMATS, ExportError, StateDict, as_strings
from mdistiller_ext.models import create_model
from mdistiller_ext.plugins import load_plugin
from mdistiller_ext.registry import register_model
from tests.support.configs import write
from tests.support.programs import Finished, run_main


@pytest.fixture(scope="module")
def simkd(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SimKD, whose student predicts by a head of the method's."""
    folder = tmp_path_factory.mktemp("runs") / "simkd"
    networks = ["DISTILLER.TYPE", "SIMKD", "DISTILLER.STUDENT", "resnet8", "DISTILLER.TEACHER", "resnet8"]
    data = ["DATASET.TYPE", "glyphs", "DATASET.ROOT", str(glyphs_root), "DATASET.LIMIT", "64"]
    solver = ["SOLVER.EPOCHS", "1", "SOLVER.BATCH_SIZE", "32", "SOLVER.DEVICE", "cpu"]
    build_trainer(load_config(None, [*networks, "DISTILLER.TEACHER_CKPT", str(teacher_file), *data, *solver]), folder).train()
    return folder


@pytest.fixture(scope="module", params=FORMATS)
def exported(simkd: Path, request: pytest.FixtureRequest) -> tuple[Path, Finished]:
    """The file of each format, and what the command printed about it."""
    finished = export(simkd, "--to", request.param, "--out", simkd / request.param)
    assert finished.status == 0, finished.err
    return simkd / request.param / f"student{FORMATS[request.param].suffix}", finished


def untrained_run(folder: Path, name: str = "resnet8", settings: str = "") -> Path:
    """What `open_student` reads of a run. ``settings`` are yaml, by default of a run with glyphs."""
    settings = settings or f"DATASET: {{TYPE: glyphs}}\nDISTILLER: {{STUDENT: {name}}}\n"
    dataset = load_config(write(folder / "config.yaml", settings), for_evaluation=True).DATASET.TYPE
    checkpoint.save(folder / "student_best", {"model": create_model(name, dataset=dataset).state_dict()})
    return folder


def export(*words: Any) -> Finished:
    return run_main(main, "mdistiller_ext.export", *words)


def predict_elsewhere(finished: Finished, run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute the printed lines in ``folder``: they give the student's input, up to one of 256 grey levels, and its logits."""
    report, _, code = finished.out.partition("Elsewhere, in Python:\n\n")
    assert all(len(line) <= 80 for line in (report + code).splitlines() if "/" not in line)
    folder.mkdir()
    monkeypatch.chdir(folder)
    Image.fromarray(np.random.default_rng(0).integers(256, size=(80, 101, 3), dtype=np.uint8)).save("image.png")
    found: dict[str, Any] = {}
    exec(code, found)
    student = open_student(run)
    images = student.preprocessing("image.png")[None]
    level = 1 / 255 / min(student.preprocessing.std)
    torch.testing.assert_close(torch.from_numpy(found["images"]), images, rtol=0, atol=1.01 * level)
    expected = student.classifier(torch.from_numpy(found["images"]))
    torch.testing.assert_close(torch.as_tensor(found["logits"]), expected, rtol=1e-4, atol=1e-4)
    assert json.loads(found["description"])["classes"] == list(student.classes)


def test_the_printed_lines_predict_as_the_student(
    simkd: Path, exported: tuple[Path, Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_elsewhere(exported[1], simkd, tmp_path / "elsewhere", monkeypatch)


SMALL = """
from torch import nn
from mdistiller_ext.registry import register_model

@register_model("small", zoo="imagenet")
def small(num_classes):
    return Small(num_classes)

class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images):
        pooled = self.body(images).mean((2, 3))
        return self.fc(pooled), {"feats": [], "pooled_feat": pooled}
"""


@pytest.mark.usefixtures("forget_plugins")
def test_the_lines_crop_load_plugins_and_name_features_where_the_run_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = write(tmp_path / "small.py", SMALL)
    load_plugin(str(plugin))
    settings = "DATASET: {TYPE: imagenet, IMAGE_SIZE: 64}\nDISTILLER: {STUDENT: small, STUDENT_FEATURES: [body]}\n"
    run = untrained_run(tmp_path / "run", "small", settings)
    finished = export(run, "--to", "safetensors", "--plugin", plugin)
    assert finished.status == 0, finished.err
    predict_elsewhere(finished, run, tmp_path / "elsewhere", monkeypatch)


def embedded(file: Path) -> dict[str, str]:
    """The description within a file, its values as strings."""
    if file.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata())
    if file.suffix == ".pt2":
        extra = {"description.json": ""}
        torch.export.load(file, extra_files=extra)
        return as_strings(json.loads(extra["description.json"]))
    return as_strings(torch.load(file, weights_only=True)["description"])


def test_the_description_is_beside_the_file_and_within_it(simkd: Path, exported: tuple[Path, Finished]) -> None:
    file, _ = exported
    assert {each.name for each in file.parent.iterdir()} == {file.name, f"{file.name}.json"}
    description = json.loads((file.parent / f"{file.name}.json").read_text(encoding="utf-8"))
    assert description.pop("sha256") == hashlib.sha256(file.read_bytes()).hexdigest()
    assert embedded(file) == as_strings(description)
    assert description["weights"]["sha256"] == hashlib.sha256((simkd / "student_best").read_bytes()).hexdigest()
    assert description["classes"] == list(open_student(simkd).classes)
    assert 0 <= description["largest_difference"] < 1e-4


def test_the_description_of_another_export_of_the_same_weights_is_found(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    for form in ("state_dict", "safetensors"):  # whose weights are the same for images of any size
        small, large = (export_student(run, form, out=tmp_path / f"{form}{size}", image_size=size) for size in (32, 40))
        shutil.copy(beside(large.file), beside(small.file))
        with pytest.raises(CorruptFileError, match="is not the file that"):
            check(small.file)


def test_onnx_takes_batches_of_any_size_and_other_images_sizes(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    exported = export_student(run, image_size=40, opset=18)
    session = onnxruntime.InferenceSession(exported.file)
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("images", ["batch", 3, 40, 40])]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [("logits", ["batch", 100])]
    images = torch.randn(7, 3, 40, 40)
    (logits,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), open_student(run).classifier(images), rtol=1e-4, atol=1e-4)
    assert (exported.description["opset"], exported.description["preprocessing"]["crop"]) == (18, 40)


# ---- what does not end in a file ----------------------------------------------------------------------------------


class MatrixExponential(nn.Module):
    """A network with an operator that ONNX does not have."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images: torch.Tensor) -> Any:
        pooled = torch.linalg.matrix_exp(images).mean((2, 3))
        return self.fc(pooled), {"pooled_feat": pooled, "feats": []}


@pytest.mark.usefixtures("forget_plugins")
def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    register_model("exponential", zoo="cifar100")(MatrixExponential)
    with pytest.raises(ExportError, match=r"exponential .*torch.onnx has no ONNX operator for aten\W+linalg_matrix_exp$"):
        export_student(untrained_run(tmp_path, "exponential"))
    assert not (tmp_path / "export").exists()


def test_a_file_whose_logits_differ_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = export_student(untrained_run(tmp_path), "state_dict").file.read_bytes()
    loaded = StateDict.open
    for wrong in (1e-3, float("nan")):
        monkeypatch.setattr(StateDict, "open", lambda *words, wrong=wrong: lambda images: loaded(*words)(images) + wrong)
        with pytest.raises(ExportError, match="differ from the student's by"):
            export_student(tmp_path, "state_dict")
    assert (tmp_path / "export" / "student.pth").read_bytes() == before
    assert len(list((tmp_path / "export").iterdir())) == 2


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = untrained_run(tmp_path / "run", "vgg8")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    for words, text in [
        ([run], "this needs the package onnxruntime: pip install "),
        ([run, "--to", "state_dict", "--image-size", 4], "vgg8 cannot take 4x4 images: "),
        ([run, "--image-size", 0], "must be at least 1 pixel"),
        ([run, "--to", "safetensors", "--opset", 18], "--opset is a setting of --to onnx"),
        ([tmp_path, "--to", "state_dict"], "no run in"),
        ([run, "--to", "state-dict"], "unknown format 'state-dict'; did you mean 'state_dict'? Known: onnx, "),
        ([], "name a RUN"),
    ]:
        finished = export(*words)
        assert (finished.status, finished.out) == (2, "")
        assert text in finished.err
        assert finished.err.count("\n") == 1
