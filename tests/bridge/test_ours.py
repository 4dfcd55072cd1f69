"""Our methods and trainers in a checkout's own script."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path

import pytest
import torch

from mdistiller_ext.bridge.checkout import load_checkout
from mdistiller_ext.bridge.ours import extend, run_script
from mdistiller_ext.errors import ConfigError, MissingFileError

SETTINGS = ["DISTILLER.STUDENT", "resnet8", "DISTILLER.TEACHER", "resnet8", "SOLVER.EPOCHS", "2", "SOLVER.BATCH_SIZE", "16"]


def run(checkout: Path, *settings: str) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run_script(str(checkout), "tools/train.py", [*SETTINGS, *settings])
    return out.getvalue().splitlines()


def digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_our_method_trains_in_their_loop_with_their_trainer_and_nothing_changes_on_disk(checkout: Path) -> None:
    before = digest(checkout)
    lines = run(checkout, "DISTILLER.TYPE", "DKD", "DKD.BETA", "2.0")
    assert lines[0] == "extra parameters: 0"
    assert lines[1].startswith("loss_ce, loss_kd: ")
    assert digest(checkout) == before


def test_our_kd_equals_theirs_with_both_trainers(checkout: Path) -> None:
    weights = []
    for method, trainer in (("KD", "base"), ("ext/KD", "base"), ("ext/KD", "ext/base")):
        load_checkout(checkout).defaults.defrost()  # the script freezes them
        weights.append(float(run(checkout, "DISTILLER.TYPE", method, "SOLVER.TRAINER", trainer)[-1].split()[1]))
    assert weights[1:] == pytest.approx([weights[0]] * 2, rel=1e-6)


def test_names_that_are_taken_get_a_prefix_and_settings_that_are_missing_are_added(checkout: Path) -> None:
    loaded = load_checkout(checkout)
    temperature, theirs = loaded.defaults.KD.TEMPERATURE, loaded.methods["KD"]
    added = extend(loaded)
    assert {"ext/KD", "ext/NONE", "DKD", "ext/base", "dot", "deepkd"} <= set(added)
    assert loaded.methods["KD"] is theirs
    assert loaded.defaults.KD.TEMPERATURE == temperature == 4
    assert loaded.defaults.KD.STANDARDIZE is False
    assert loaded.defaults.SOLVER.DEEPKD.DELTA_TOG == 0.075
    assert "LR_SCHEDULER" not in loaded.defaults.SOLVER  # their code may ask whether there is one


def test_a_method_with_own_layers_tells_their_parameters(checkout: Path) -> None:
    lines = run(checkout, "DISTILLER.TYPE", "FITNET", "SOLVER.TRAINER", "dot")
    count = int(lines[0].split(": ")[1])
    assert count > 0


def test_a_method_that_needs_the_index_says_which_trainer_gives_it_and_trains_with_that(checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"CRD needs the labels of the training set .*choose SOLVER\.TRAINER ext/base"):
        run(checkout, "DISTILLER.TYPE", "CRD")


def test_crd_trains_with_our_trainer(checkout: Path) -> None:
    assert run(checkout, "DISTILLER.TYPE", "CRD", "CRD.NCE.K", "4", "SOLVER.TRAINER", "ext/base")[-1].startswith("weights ")


def test_a_method_with_two_views_says_that_the_loader_gives_one(checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"MLKD needs 2 views of each image \(weak, strong\), and this loader gives one"):
        run(checkout, "DISTILLER.TYPE", "MLKD")


def test_our_trainer_refuses_their_method_and_names_ours(checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"trains its own methods \(.*ext/KD.*\), not KD of the checkout"):
        run(checkout, "DISTILLER.TYPE", "KD", "SOLVER.TRAINER", "deepkd")


def test_a_script_that_is_nowhere_is_one_line(checkout: Path) -> None:
    with pytest.raises(MissingFileError, match=r"script not found: tools/absent\.py"):
        run_script(str(checkout), "tools/absent.py", [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_works_as_before_once_the_script_has_ended(checkout: Path) -> None:
    run(checkout, "DISTILLER.TYPE", "DKD", "SOLVER.EPOCHS", "1")
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1).cuda()
