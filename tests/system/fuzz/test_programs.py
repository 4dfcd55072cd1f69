"""Both programs end well whatever their arguments, and a run folder stays below its prefix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from mdistiller_ext import build
from mdistiller_ext.config import default_config
from mdistiller_ext.data import create_plain_loader
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.run import run_folder
from tests.support.fuzzing import GOOD, LONGEST, ODD_NAMES, Fuzz, dumped, names, odd_text
from tests.support.programs import ROOT, run_program

pytestmark = [
    pytest.mark.filterwarnings("always::mdistiller_ext.errors.ConfigWarning"),  # run_program's line, not an exception
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),  # about strategies of many words
]


def assert_ends_well(finished: Any) -> bool:
    """Whether a program accepted its arguments; if not, the last line says why, after notes."""
    assert finished.status in (0, 2), finished
    *before, last = finished.err.split("\n")[:-1] or [""]
    assert all(line.isprintable() for line in (*before, last)), finished.err
    assert all(line.startswith("note: ") for line in before), finished.err
    if finished.status == 2:
        assert re.match(r"error: .", last), finished.err
        assert len(last) <= LONGEST + 100
    return finished.status == 0


def words(options: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Command lines: options with and without values, some of them odd, and settings in pairs or not."""
    option = st.sampled_from(options)
    parts = st.one_of(
        st.tuples(option, values),
        st.tuples(option),
        st.tuples(values),
        st.tuples(option, values).map("=".join).map(lambda part: (part,)),
        st.tuples(names, st.one_of(values, odd_text)),
        st.sampled_from([(key, str(value)) for key, value in GOOD]),
    )
    return st.lists(parts, max_size=4).map(lambda groups: [word for group in groups for word in group])


odd_names = st.one_of(odd_text, st.sampled_from(ODD_NAMES))


def test_train_py_starts_or_ends_in_one_line(fuzz: Fuzz, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise ConfigError("as far as here")

    monkeypatch.setattr(build, "build_trainer", stop)
    (folder / "binary.py").write_bytes(b"\0\x01\xff")
    (folder / "latin.py").write_bytes(b"'\xe9'")
    (folder / "wrong.py").write_bytes(b"(\n")
    files = [str(folder / name) for name in ("binary.py", "latin.py", "wrong.py", "folder", "fifo", "gone.py", "binary")]
    files += [str(ROOT / "configs/glyphs/base.yaml"), "configs/glyphs/kd/res20_res8.yaml", "/dev/zero"]
    values = st.one_of(odd_names, st.sampled_from(files))
    options = ["--cfg", "--seed", "--resume", "--plugin", "--list", "--help", "--cf", "--unknown", "-h", "--se=1"]

    def accepts(arguments: list[str]) -> bool:
        finished = run_program("train.py", *arguments)
        return assert_ends_well(finished) or finished.err.endswith("error: as far as here\n")

    known = [[option, file] for option in ("--cfg", "--plugin") for file in [*files, *ODD_NAMES]]
    fuzz(words(options, values), (100, 1000), accepts, known)


def test_eval_py_evaluates_or_ends_in_one_line(
    fuzz: Fuzz, folder: Path, glyphs_root: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = create_plain_loader("glyphs", root=glyphs_root, batch_size=2, limit=2)
    monkeypatch.setattr(build, "build_plain_loader", lambda *_, **options: few)  # the data sets are not what is tried here
    whole = teacher_file.read_bytes()
    (folder / "cut").write_bytes(whole[:999])
    (folder / "flipped").write_bytes(whole[:5000] + b"\xff" + whole[5001:])
    (folder / "empty").write_bytes(b"")
    torch.save({"model": {5: torch.zeros(1)}}, folder / "odd")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_bytes(dumped({"DISTILLER": {"STUDENT": "resnet8\n"}}))
    files = [str(folder / name) for name in ("cut", "flipped", "empty", "odd", "run", "folder", "fifo", "gone", "run/gone")]
    values = st.one_of(odd_names, st.sampled_from([*files, str(teacher_file), "resnet8", "resnet20", "glyphs", "pretrain"]))
    options = ["-m", "-c", "-d", "-bs", "--model", "--ckpt", "--dataset", "--batch-size", "--plugin", "-x", "--help"]
    right = ["-m", "resnet8", "-c", str(teacher_file), "-d", "glyphs", "SOLVER.DEVICE", "cpu"]
    lines = words(options, values).flatmap(lambda line: st.sampled_from([line, [*right, *line]]))
    known = [["-m", "resnet8", "-d", "glyphs", "-c", file] for file in [*files, *ODD_NAMES]]
    known += [[*right, option, name] for option in ("-m", "-d", "-bs", "SOLVER.DEVICE") for name in ODD_NAMES]
    fuzz(lines, (100, 700), lambda arguments: assert_ends_well(run_program("eval.py", *arguments)), known)


def test_a_run_folder_is_two_levels_below_the_prefix(fuzz: Fuzz, tmp_path: Path) -> None:
    config = default_config()
    config.LOG.PREFIX = str(tmp_path)

    def accepts(texts: tuple[str, str]) -> bool:
        config.EXPERIMENT.PROJECT, config.EXPERIMENT.NAME = texts
        folder = run_folder(config)
        assert folder.parent.parent == tmp_path
        assert folder.resolve().parent.parent == tmp_path.resolve()
        assert str(folder.relative_to(tmp_path)).isprintable()
        folder.mkdir(parents=True, exist_ok=True)
        return True

    any_text = st.one_of(
        odd_names, st.text(max_size=300), st.text("./\\~ \n\0", max_size=9), st.text(st.characters(), max_size=9)
    )
    fuzz(st.tuples(any_text, any_text), (200, 1000), accepts)
