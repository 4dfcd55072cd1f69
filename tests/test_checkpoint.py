"""Atomic checkpoint I/O that runs no code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mdistiller_ext import checkpoint
from mdistiller_ext.errors import CorruptFileError, MissingFileError, TrainingError
from tests.support.checkpoints import Calls, traps, upstream_like
from tests.support.programs import ROOT


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- saving -------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    state = {"a": torch.randn(3), "n": 1, "x": 0.1, "list": [1, "b", None], "nested": {1: torch.arange(3)}}
    checkpoint.save(tmp_path / "f", state)
    loaded = checkpoint.load(tmp_path / "f")
    assert torch.equal(loaded["a"], state["a"])
    assert torch.equal(loaded["nested"][1], torch.arange(3))
    assert {k: loaded[k] for k in ("n", "x", "list")} == {k: state[k] for k in ("n", "x", "list")}
    assert files_in(tmp_path) == ["f"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_save_that_fails_on_the_way_leaves_the_old_file_whole_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "latest"
    checkpoint.save(path, {"epoch": 1})
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class HalfWritten:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> HalfWritten:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            full()

    if step == "write":
        monkeypatch.setattr("builtins.open", lambda file, mode, real=open: HalfWritten(real(file, mode)))
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(TrainingError, match=f"cannot write {path}: No space left on device"):
        checkpoint.save(path, {"epoch": 2})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert files_in(tmp_path) == ["latest"]


def test_ctrl_c_in_the_middle_of_a_save_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest"
    checkpoint.save(path, {"epoch": 1})

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path) == {"epoch": 1}
    assert files_in(tmp_path) == ["latest"]


def test_a_disk_that_takes_no_more_bytes_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the system itself refuses the bytes, half-way."""
    path = tmp_path / "latest"
    code = f"""
import resource, torch
from mdistiller_ext import checkpoint
from mdistiller_ext.errors import TrainingError
checkpoint.save({str(path)!r}, {{"epoch": 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoint.save({str(path)!r}, {{"epoch": 2, "weights": torch.zeros(100_000)}})
except TrainingError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert f"cannot write {path}: {os.strerror(errno.EFBIG)}" in done.stdout
    assert checkpoint.load(path) == {"epoch": 1}
    assert files_in(tmp_path) == ["latest"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot write .*No such file or directory"):
        checkpoint.save(tmp_path / "gone" / "latest", {})


# ---- loading ------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=f"checkpoint not found: {tmp_path / 'no'}"):
        checkpoint.load(tmp_path / "no")
    with pytest.raises(MissingFileError, match=f"{tmp_path} is a folder, not a checkpoint"):
        checkpoint.load(tmp_path)


def assert_reported_as_damaged(path: Path) -> None:
    with pytest.raises(CorruptFileError) as caught:
        checkpoint.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path} ({path.stat().st_size:,} bytes) is truncated, damaged or not a checkpoint")
    assert "\n" not in text


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("part", [0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.999])
def test_a_truncated_checkpoint_is_reported(tmp_path: Path, zipped: bool, part: float) -> None:
    path = tmp_path / "f"
    torch.save(upstream_like(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_reported_as_damaged(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_cut_anywhere_is_reported(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "f"
    torch.save({"model": {"w": torch.zeros(3)}, "lr": np.float64(0.1)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 7):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptFileError) as caught:  # "damaged", or "holds more" where the name of a class is cut off
            checkpoint.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x80", b"\x80\x02\x8a\x0al\xfc", b"\x00\x01", b"PK\x03\x04", b"\xff" * 99])
def test_a_file_too_short_for_a_checkpoint_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    assert_reported_as_damaged(path)
    with pytest.raises(CorruptFileError, match=r"it is too short\)\. Delete it and get it anew"):
        checkpoint.load(path)


def test_random_bytes_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "f"
    generator = random.Random(0)
    for _ in range(200):
        path.write_bytes(generator.randbytes(generator.choice([1, 2, 5, 20, 300])))
        with pytest.raises(CorruptFileError) as caught:  # a few are text
            checkpoint.load(path)
        assert str(caught.value).startswith(f"{path} (")
        assert "\n" not in str(caught.value)


def test_nobody_is_advised_to_read_a_file_without_care(tmp_path: Path) -> None:
    """Torch's own message says how, at length."""
    torch.save({"w": torch.zeros(1)}, tmp_path / "f")
    with zipfile.ZipFile(tmp_path / "f") as whole, zipfile.ZipFile(tmp_path / "damaged", "w") as damaged:
        for part in whole.infolist():
            damaged.writestr(part.filename, b"\x80\x02\xff." if part.filename.endswith("data.pkl") else whole.read(part))
    with pytest.raises(CorruptFileError, match=r"damaged or not a checkpoint \(its pickle cannot be read\)\. Delete it"):
        checkpoint.load(tmp_path / "damaged")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_with_flipped_bytes_loads_or_is_reported(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "f"
    torch.save({"model": {"w": torch.zeros(3)}, "lr": np.float64(0.1)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    generator = random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(generator.choice([1, 5, 40])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CorruptFileError):
            checkpoint.load(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", ["posix.system", "eval", "exec", "io.open"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, kind: str, zipped: bool) -> None:
    path, target = tmp_path / "f", tmp_path / "ran"
    state = {"model": {"w": torch.zeros(2)}, "evil": traps(target)[kind]}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    name = kind.rpartition(".")[2]
    with pytest.raises(CorruptFileError, match=rf"^[^\n]*more than tensors and plain values.*could run code.*{name}$"):
        checkpoint.load(path)
    assert not target.exists()
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that the trap leaves open
        torch.load(path, weights_only=False)  # the trap itself works
    assert target.exists()


def test_a_bare_pickle_that_would_run_code_does_not_run(tmp_path: Path) -> None:
    path, target = tmp_path / "f", tmp_path / "ran"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(traps(target)["posix.system"], protocol=protocol))
        with pytest.raises(CorruptFileError, match=r"is a pickle that could run code, and was not loaded$"):
            checkpoint.load(path)
    assert not target.exists()


def test_what_a_pickle_makes_of_a_namespace_is_never_called(tmp_path: Path) -> None:
    """A Namespace takes any attribute, also by slots; so it may be odd, but only what the allow-list has can be in it."""
    names = {"__setstate__": "x", "__class__": 1, "__getattr__": "y", "model": "resnet8"}
    torch.save({"opt": Calls(argparse.Namespace, state=names), "w": torch.ones(1)}, tmp_path / "f")
    loaded = checkpoint.load(tmp_path / "f")
    assert type(loaded["opt"]) is argparse.Namespace
    assert vars(loaded["opt"]) == names
    target = tmp_path / "ran"
    for slots in ({"run": traps(target)["eval"]}, {"__class__": os._wrap_close}, {"__dict__": 1}):
        torch.save({"opt": Calls(argparse.Namespace, state=(None, slots))}, tmp_path / "f")
        with pytest.raises(CorruptFileError):
            checkpoint.load(tmp_path / "f")
    assert not target.exists()


def test_flags_of_a_numpy_type_are_not_believed(tmp_path: Path) -> None:
    """With the flag "holds no objects" numpy reads a scalar's eight bytes as the address of an object, and crashes."""
    scalar = np.float64(0).__reduce__()[0]
    for code, content in (("O8", b"A" * 8), ("V8", b"A" * 8), ("f8", b"A" * 7), ("f8", b"A" * 16), ("S4", b"text")):
        dtype = Calls(np.dtype, code, False, True, state=(3, "|", None, None, None, -1, -1, 0))
        torch.save({"lr": Calls(scalar, dtype, content)}, tmp_path / "f")
        assert_reported_as_damaged(tmp_path / "f")


def test_a_small_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(tmp_path / "f", "w", zipfile.ZIP_DEFLATED) as packed:
        for part in whole.infolist():
            packed.writestr(part.filename, whole.read(part))
    assert_reported_as_damaged(tmp_path / "f")
    torch.save({"w": torch.zeros(777)}, tmp_path / "f", _use_new_zipfile_serialization=False)
    content = (tmp_path / "f").read_bytes()
    for length in (2**31 - 1, 2**40, 2**62):  # of the storage, in the pickle and before its bytes
        huge = pickle.dumps(length, protocol=2)[2:-1]
        (tmp_path / "f").write_bytes(
            content.replace(b"M\x09\x03", huge).replace(struct.pack("<q", 777), struct.pack("<q", length))
        )
        assert_reported_as_damaged(tmp_path / "f")


def test_a_whole_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "f")
    with pytest.raises(CorruptFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        checkpoint.load(tmp_path / "f")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_upstreams_checkpoints_load(tmp_path: Path, zipped: bool) -> None:
    state = upstream_like()
    torch.save(state, tmp_path / "f", _use_new_zipfile_serialization=zipped)
    loaded = checkpoint.load(tmp_path / "f")
    assert loaded["epoch"] == 240
    assert loaded["optimizer"]["param_groups"][0]["lr"] == 0.05
    assert loaded["opt"].lr_decay_epochs == [150, 180]
    assert all(torch.equal(loaded["model"][k], v) for k, v in state["model"].items())


@pytest.mark.parametrize(
    "number", [np.float16(0.5), np.float32(0.5), np.float64(-1e300), np.int64(-7), np.uint8(200), np.bool_(1)]
)
def test_numpy_scalars_become_plain_numbers(tmp_path: Path, number: np.generic) -> None:
    torch.save({"n": number}, tmp_path / "f")
    loaded = checkpoint.load(tmp_path / "f")["n"]
    assert loaded == number
    assert type(loaded) is type(number.item())


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_scalars_load_whichever_numpy_wrote_them(tmp_path: Path, module: str) -> None:
    torch.save({"lr": np.float64(0.05)}, tmp_path / "f", _use_new_zipfile_serialization=False)
    content = (tmp_path / "f").read_bytes()
    own = next(name for name in (b"numpy._core.multiarray", b"numpy.core.multiarray") if name in content)
    (tmp_path / "f").write_bytes(content.replace(own, module.encode()))
    assert checkpoint.load(tmp_path / "f") == {"lr": 0.05}
