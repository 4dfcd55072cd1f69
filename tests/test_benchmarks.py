"""The scripts in ``benchmarks/`` run with tiny arguments and compute what they say; what they find is not judged here."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import common, deepkd_step, growth, memory, memory_growth, teacher_cache
from mdistiller_ext.errors import ConfigWarning
from mdistiller_ext.models import create_model

SMALL = ("--student", "resnet8", "--teacher", "resnet14")


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return tmp_path


def run(name: str, *arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    importlib.import_module(f"benchmarks.{name}").main()


def kept(results: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    assert content["benchmark"] == name
    assert content["hardware"]["torch"] == torch.__version__
    return content


def test_compare_takes_turns_and_computes_medians_and_ratios() -> None:
    now, calls = 0.0, []
    durations = {"old": [100.0, 4.0, 6.0, 8.0], "new": [100.0, 2.0, 2.0, 16.0], "newer": [100.0, 1.0, 4.0, 4.0]}
    left = {name: iter(values) for name, values in durations.items()}

    def variant(name: str) -> Any:
        def call() -> None:
            nonlocal now
            calls.append(name)
            now += next(left[name])

        return call

    rows = common.compare({name: variant(name) for name in durations}, 3, per=2, after={"newer": "old"}, clock=lambda: now)
    assert calls == ["old", "new", "newer"] * 4  # the first of them to warm up
    assert rows[0]["seconds"] == {"median": 3.0, "min": 2.0, "max": 4.0, "n": 3}
    assert rows[1]["seconds"] == {"median": 1.0, "min": 1.0, "max": 8.0, "n": 3}
    assert rows[0]["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0, "n": 3}
    assert rows[1]["ratio"] == rows[1]["gain"] == {"median": 2.0, "min": 0.5, "max": 3.0, "n": 3}
    assert rows[2]["gain"] == {"median": 2.0, "min": 1.5, "max": 4.0, "n": 3}  # to old, not to new


def test_the_official_step_and_ours_agree() -> None:
    loader = common.our_loader(common.random_split(48), training=False, batch_size=16)
    assert deepkd_step.check_agreement(deepkd_step.networks("resnet8", "resnet14", loader), loader) < 1e-10


def test_data_pipeline(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("data_pipeline", "--images", 70, "--workers", 0, "--rounds", 1, monkeypatch=monkeypatch)
    assert [row["variant"] for row in kept(results, "data_pipeline")["rows"]] == ["DataLoader", "ours"]


def test_deepkd_step(results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("deepkd_step", "--rounds", 2, "--batch", 8, *SMALL, monkeypatch=monkeypatch)
    content = kept(results, "deepkd_step")
    assert content["difference"] < 1e-10
    rows = content["rows"]
    assert [row["variant"] for row in rows[:5]] == [
        "official way",
        "ours, streams not merged, nchw",
        "+ merged streams",
        "+ channels_last",
        "+ folded teacher",
    ]
    assert rows[-1]["variant"].startswith("KD")
    assert all(row["seconds"]["n"] == 2 for row in rows)
    assert "+ merged streams" in capsys.readouterr().out


def test_teacher_cache(results: Path, glyphs_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "RECIPES", ("none/resnet8", "kd/res20_res8"))
    run("teacher_cache", "--images", 100, "--rounds", 1, "--root", glyphs_root, monkeypatch=monkeypatch)
    assert [row["method"] for row in kept(results, "teacher_cache_none")["rows"]] == ["NONE", "KD"]


def test_gradient_records(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("gradient_records", "--every", 2, "--batch", 8, "--rounds", 1, *SMALL, monkeypatch=monkeypatch)
    content = kept(results, "gradient_records_none")
    assert [row["variant"] for row in content["rows"]] == ["without", "gsnr", "conflict", "both"]
    weights = sum(p.numel() for p in create_model("resnet8").parameters())
    opened = {name: found["open"] for name, found in content["bytes"].items()}
    assert 3 * 4 * weights < opened["gsnr"] < 3 * 4 * weights + opened["conflict"]  # a mean gradient of each of three roles


def test_the_ablation_takes_away_what_it_says() -> None:
    loader = common.our_loader(common.random_split(8), training=False, batch_size=8)
    pair = deepkd_step.networks("resnet8", "resnet14", loader)
    plain = deepkd_step.our_trainer(pair, loader, loader, {"SOLVER.CHANNELS_LAST": False}, merge=False, accelerate=False)
    full = deepkd_step.our_trainer(pair, loader, loader, {})
    assert len(plain.active_streams) == 3
    assert len(full.active_streams) == 2
    for trainer, layout in ((plain, torch.contiguous_format), (full, torch.channels_last)):
        assert trainer.distiller.student.layer1[0].conv1.weight.is_contiguous(memory_format=layout)
    assert type(plain.distiller.teacher) is type(pair[1])
    assert type(full.distiller.inference_network()).__name__ == "InferenceNetwork"


def test_epoch(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--images", 80, "--test-images", 20, "--rounds", 1, "--workers", 0)
    run("epoch", *arguments, *SMALL, monkeypatch=monkeypatch)
    assert [row["variant"] for row in kept(results, "epoch")["rows"]][:2] == ["official way", "ours, fp32"]


def test_growth(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells in this process: starting others takes seconds; one of them is tried below."""
    monkeypatch.setattr(growth, "measure_apart", lambda cell: growth.measure(cell))
    monkeypatch.setattr(growth, "_matmul_rate", lambda _: 1e9)
    monkeypatch.setattr(growth, "_copy_rate", lambda _: 1e9)
    sizes = ("--classes", 10, 50, "--batches", 64, "--models", "resnet8", "--teacher", "resnet8", "--streams", 1, 3)
    run("growth", *sizes, "--pair", "resnet8", "resnet8", "--seconds", 0, "--rounds", 1, monkeypatch=monkeypatch)
    content = kept(results, "growth")
    one, three = content["steps"]["streams"].values()
    assert three["operations"] > 1.5 * one["operations"]  # two backward passes more
    assert three["least_bytes"] > one["least_bytes"]
    assert 0 < three["tensor_bytes"] - one["tensor_bytes"] < 0.1 * one["tensor_bytes"]  # two momenta more
    assert set(content["losses"]) == {"10", "50"}


def test_growth_measures_in_a_process_of_its_own() -> None:
    cell = growth.Cell(teacher="resnet8", batch=16, seconds=0)
    found = growth.measure_apart(cell)
    assert found["step"]["n"] == growth.LEAST_STEPS
    assert found["tensor_bytes"] > 0
    assert found["floor_operations"] > 0
    assert found["floor_bytes"] > 0


def test_image_files(results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("image_files", "--images", 8, "--rounds", 1, monkeypatch=monkeypatch)
    rows = {row["variant"]: row for row in kept(results, "image_files")["rows"]}
    assert len(rows) == 9
    assert rows["ours, 2 workers"]["adds_to"] == "PIL, 2 workers"
    run("image_files", "--tree", 2000, "--rounds", 1, monkeypatch=monkeypatch)
    assert kept(results, "image_tree")["rows"]["read"]["loaders"]["n"] == 1
    run("image_files", "--images", 4, "--rounds", 1, "--parts", monkeypatch=monkeypatch)
    assert len(kept(results, "image_parts")["rows"]) == 7


def test_startup(results: Path, glyphs_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = ["--commands", "published", "run", "--rounds", 1, "DATASET.ROOT", glyphs_root, "DATASET.LIMIT", 100]
    run("startup", *commands, monkeypatch=monkeypatch)
    published, training = kept(results, "startup")["rows"]
    assert published["seconds"]["n"] == published["peak_mb"]["n"] == 1
    assert (
        training["peak_mb"]["median"] > 5 * published["peak_mb"]["median"]
    )  # it has torch, and the other is not charged for ours


def test_gpu_on_the_cpu(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--device", "cpu", "--images", 128, "--epochs", 1, "--workers", 0)
    run("gpu", *arguments, *SMALL, monkeypatch=monkeypatch)
    rows = kept(results, "gpu")["rows"]
    assert rows[0]["extrapolated"]["steps"] == 1
    assert rows[1]["seconds_240"] == pytest.approx(rows[1]["setup"] + 240 * rows[1]["first_epoch"])


def test_gpu_without_one_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        run("gpu", monkeypatch=monkeypatch)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_image_cache(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(ConfigWarning, match="decoded images are kept"):
        run("image_cache", "--train", 1, "--val", 1, "--rounds", 1, monkeypatch=monkeypatch)
    content = kept(results, "image_cache")
    assert content["images"] == 400
    assert [row["seconds"]["n"] for row in content["rows"]] == [1, 1, 1]


def test_memory(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: its peak is that of other tests, and is not looked at."""
    monkeypatch.setattr(memory, "measure_apart", lambda recipe, batch: memory.measure(recipe, min(batch, 4)))
    run("memory", "--methods", "KD", "--others", "cifar100/none/resnet8x4", monkeypatch=monkeypatch)
    kd, none = kept(results, "memory")["rows"].values()
    for row in (kd, none):
        assert 1 < row["tensors"] / row["floor"] < 2
        assert row["data"] == 60_000 * (3072 + 8)
    student, teacher = (sum(p.numel() for p in create_model(name).parameters()) for name in ("resnet8x4", "resnet32x4"))
    assert none["networks"] == pytest.approx(4 * student, rel=0.01)  # and the buffers of batch norms
    assert kd["networks"] == pytest.approx(4 * (student + 2 * teacher), rel=0.01)  # with the folded copy


def test_memory_of_recipes(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("memory", "--recipes", "glyphs_hard", monkeypatch=monkeypatch)
    rows = kept(results, "memory_recipes")["recipes"]
    assert all(row["total"] == sum(row[key] for key in ("step", "networks", "data", "process")) for row in rows.values())
    named = [name for first, row in rows.items() for name in (first, *row["same"])]
    assert sorted(named) == sorted(
        str(path.relative_to(memory.CONFIGS)) for path in memory.CONFIGS.glob("glyphs_hard/*/*.yaml")
    )


def test_growth_of_memory_is_a_slope_with_its_error(tmp_path: Path, glyphs_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_growth.slope([5.0, 7.0, 9.0, 11.0]) == pytest.approx((2, 0))
    rise, error = memory_growth.slope([0.0, 1.0, 0.0, 1.0])
    assert (rise, error) == pytest.approx((0.2, 0.08**0.5))  # residuals: 0.8 / 2 degrees of freedom / 5
    monkeypatch.setattr(memory_growth, "IMAGES", 16)
    (tmp_path / "glyphs").symlink_to(glyphs_root)
    memory_growth.make(tmp_path)
    samples = memory_growth.measure("KD", tmp_path, 2, "cpu")
    assert samples[0]["tensors"] > 150  # weights of both networks, and momenta
    assert memory_growth.summary(samples)["tensors"]["100 %"] == samples[1]["tensors"]


def test_the_cost_of_methods_is_measured_beside_kd(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("method_cost", *SMALL, "--rounds", 1, "--methods", "KD", "CRD", "CRLD", monkeypatch=monkeypatch)
    rows = {row["variant"]: row for row in kept(results, "method_cost")["rows"]}
    assert list(rows) == ["KD", "CRD", "CRLD"]
    assert rows["KD"]["own_parameters"] == rows["CRLD"]["own_parameters"] == 0
    assert rows["CRD"]["own_parameters"] == 2 * (64 * 128 + 128)
    assert rows["CRLD"]["tensor_bytes"] > 1.5 * rows["KD"]["tensor_bytes"]  # two views
    assert "time of KD" in capsys.readouterr().out
