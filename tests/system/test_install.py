"""The wheel, built from the sdist and installed: the console script trains, evaluates and runs studies without the checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.programs import ROOT

# Fails whatever reads a file of the checkout. The environment of the tests may be a folder of it.
REFUSE_CHECKOUT = f"""
import os, sys

def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str):
        path = os.path.abspath(arguments[0])
        if path.startswith({str(ROOT / "_")[:-1]!r}) and not path.startswith({sys.prefix!r}):
            raise RuntimeError("a file of the checkout is used: " + path)

sys.addaudithook(refuse)
"""
SMALL = ["DATASET.LIMIT", "64", "SOLVER.EPOCHS", "1"]


def python_module(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of scripts of an environment with the wheel, which finds dependencies in that of the tests."""
    built, environment = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("environment")
    python_module("build", "--no-isolation", "--outdir", built, ROOT)  # the sdist, and the wheel from it
    (wheel,) = built.glob("*.whl")
    venv.create(environment, symlinks=True)
    python_module("pip", "--python", environment, "install", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "sitecustomize.py").write_text(REFUSE_CHECKOUT)
    return environment / "bin"


def test_the_installed_package_works_from_any_folder(scripts: Path, tmp_path: Path, glyphs_root: Path) -> None:
    (tmp_path / "data").symlink_to(glyphs_root)  # the default DATASET.ROOT
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{scripts}{os.pathsep}{environment['PATH']}"

    def shell(command: str) -> str:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "\n  train " in shell("mdistiller-ext --help")
    trained = shell(f"mdistiller-ext train --cfg glyphs/deepkd/res20_res8 {shlex.join(SMALL)}")
    assert re.search(r"teacher resnet20 +9\d\.\d\d %", trained)
    evaluate, compare = (re.search(f"{text}: +(.*)", trained)[1] for text in ("evaluate it", "compare with a plain student"))
    assert compare == "mdistiller-ext train --cfg glyphs/none/resnet8"
    assert evaluate.startswith("mdistiller-ext eval -c output/glyphs/")
    assert shell(evaluate).startswith("resnet8 (")
    (start,) = json.loads(next(tmp_path.glob("output/glyphs/*/provenance.json")).read_text())
    assert start["git"] is None
    assert "DKD" in shell("mdistiller-ext published --student resnet8x4")
    (tmp_path / "mine.yaml").write_text("RUNS: [{CFG: glyphs/kd/res20_res8}]")
    settings = shlex.join(f"{key}={value}" for key, value in zip(SMALL[::2], SMALL[1::2], strict=True))
    done = shell(f"mdistiller-ext study run mine.yaml --set {settings}")
    assert "1 of 1 runs finished; report: mdistiller-ext study report output/mine" in done
    (log,) = tmp_path.glob("output/mine/logs/*.log")
    assert f"$ {scripts}/mdistiller-ext train --cfg glyphs/kd/res20_res8 " in log.read_text()
