"""Atomic checkpoint I/O that runs no code, and loading weights into networks."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gzip
import io
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

from mdistiller_ext import checkpoint, weights
from mdistiller_ext.errors import CorruptFileError, MissingFileError, TrainingError


def load_weights(model: nn.Module, path: Path, **options: Any) -> list[str]:
    """Load a file into a model; the entries that were not loaded."""
    return weights.load_state_dict(model, checkpoint.load(path), path, **options)


def upstream_like() -> dict[str, Any]:
    """What mdistiller's and RepDistiller's checkpoints hold."""
    model = OrderedDict(weight=torch.randn(4, 3), bias=torch.zeros(4), num_batches_tracked=torch.tensor(5))
    optimizer = {
        "state": {0: {"momentum_buffer": torch.randn(4, 3)}},
        "param_groups": [{"lr": np.float64(0.05), "params": [0]}],
    }
    return {
        "epoch": 240,
        "model": model,
        "optimizer": optimizer,
        "best_acc": np.float64(72.5),
        "accuracy": np.float32(1.5),
        "opt": argparse.Namespace(model="resnet8x4", lr_decay_epochs=[150, 180]),
    }


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


def zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr(name, "content")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer.*`git lfs pull`"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"<HTML><body>Please log in", "web page"),
        (gzip.compress(b"weights", mtime=0), "archive: unpack it"),
        (tarfile.TarInfo("cifar_teachers/").tobuf() + bytes(1024), "archive: unpack it"),
        (zip_of("a/b.pth"), "zip archive without a checkpoint of its own: unpack it"),
        (zip_of("net/constants.pkl"), "TorchScript program, which was not loaded"),
        (b"\x80\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}', "safetensors file.*safetensors.torch.load_file"),
        (b"\n", "text file, not a checkpoint"),
        ("SOLVER:\n  LR: 0.1 # \u00b5\n".encode(), "text file, not a checkpoint"),
        (b"\xc3\xa9" * 4000 + b"x", "text file, not a checkpoint"),
        (b"x" * 4095 + b"\xc3\xa9", "text file, not a checkpoint"),  # where its kind is read ends within a character
        *(
            (pickle.dumps(content, protocol=protocol), "pickle that could run code, and was not loaded")
            for protocol in (2, 4)
            for content in ({"w": np.zeros(3)}, {"w": 1.0}, argparse.Namespace())
        ),
    ],
)
def test_what_is_often_saved_as_a_checkpoint_is_told_by_its_name(tmp_path: Path, content: bytes, hint: str) -> None:
    path = tmp_path / "f.pth"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"^{path} \({len(content):,} bytes\) is an? {hint}[^\n]*$") as caught:
        checkpoint.load(path)
    assert "Delete" not in str(caught.value)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(CorruptFileError, match=rf"^{tmp_path}/f \(0 bytes\) is empty\. Delete it and get it anew$"):
        checkpoint.load(tmp_path / "f")


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


class Calls:
    """Pickled, it asks the reader to call ``function(*arguments)`` and to give the result ``state``."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def traps(target: Path) -> dict[str, Any]:
    """Objects that make the file ``target`` when they are unpickled without care."""
    return {
        "posix.system": Calls(os.system, f"touch '{target}'"),
        "eval": Calls(eval, f"open({str(target)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(target)!r}, 'w')"),
        "io.open": Calls(open, str(target), "w"),
    }


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


def test_a_tensor_of_any_size_in_a_small_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    state = make_model().state_dict()
    torch.save(state | {"0.bias": torch.zeros(1).expand(2**45)}, tmp_path / "f")
    with pytest.raises(CorruptFileError, match=r"1 of another shape: 0\.bias \[35184372088832\] for \[4\]"):
        load_weights(make_model(), tmp_path / "f")


@pytest.mark.parametrize("name", ["get", "values", "keys", "_metadata"])
def test_attributes_of_a_state_dict_hide_none_of_its_methods(tmp_path: Path, name: str) -> None:
    source, model = make_model(), make_model()
    state = OrderedDict(source.state_dict())
    torch.save(state, tmp_path / "f")
    with zipfile.ZipFile(tmp_path / "f") as whole, zipfile.ZipFile(tmp_path / "hidden", "w") as hidden:
        for part in whole.infolist():
            content = whole.read(part)
            if part.filename.endswith("data.pkl"):
                content = content[:-1] + b"}X" + struct.pack("<I", len(name)) + name.encode() + b"K\x01sb."
            hidden.writestr(part.filename, content)
    assert vars(checkpoint.load(tmp_path / "hidden")) == {name: 1}
    load_weights(model, tmp_path / "hidden")
    assert_same_weights(model, source)


def test_attributes_of_a_tensor_hide_none_of_its_methods(tmp_path: Path) -> None:
    source, model = make_model(), make_model()
    state = source.state_dict()
    state["0.bias"].to = 1  # type: ignore[assignment]
    torch.save(state, tmp_path / "f")
    load_weights(model, tmp_path / "f")
    assert_same_weights(model, source)


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="torch has no numbers of four bits")
def test_numbers_that_torch_cannot_read_are_refused(tmp_path: Path) -> None:
    bias = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    torch.save(make_model().state_dict() | {"0.bias": bias}, tmp_path / "f")
    with pytest.raises(CorruptFileError, match=r"entry '0\.bias' holds float4_e2m1fn_x2 numbers where float32 is needed"):
        load_weights(make_model(), tmp_path / "f")


@pytest.mark.parametrize(("key", "value"), [("1.num_batches_tracked", float("nan")), ("0.bias", 1e300)])
def test_numbers_that_the_network_cannot_hold_are_refused(tmp_path: Path, key: str, value: float) -> None:
    state = make_model().state_dict()
    torch.save(state | {key: torch.full(state[key].shape, value, dtype=torch.float64)}, tmp_path / "f")
    with pytest.raises(CorruptFileError, match=f"entry '{key}' is not finite"):
        load_weights(make_model(), tmp_path / "f")


def test_what_a_file_writes_does_not_reach_the_terminal_as_it_is(tmp_path: Path) -> None:
    torch.save({"a": Calls(os.system, "")}, tmp_path / "f", _use_new_zipfile_serialization=False)
    content = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(content.replace(b"system", b"\x1b[31m!"))
    with pytest.raises(CorruptFileError) as caught:
        checkpoint.load(tmp_path / "f")
    assert str(caught.value).isprintable()
    torch.save({"\x1b[2J\n": torch.zeros(1)}, tmp_path / "f")
    with pytest.raises(CorruptFileError) as caught:
        load_weights(make_model(), tmp_path / "f")
    assert str(caught.value).isprintable()


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


def test_old_torchs_state_dict_with_metadata_loads(tmp_path: Path) -> None:
    source = make_model()
    state = source.state_dict()
    assert state._metadata  # type: ignore[attr-defined]
    saved = {"opt": argparse.Namespace(model="x"), "model": state, "best_acc": torch.tensor(72.5), "accuracy": np.float32(1)}
    torch.save(saved, tmp_path / "resnet8x4_last.pth", _use_new_zipfile_serialization=False)
    model = make_model()
    assert load_weights(model, tmp_path / "resnet8x4_last.pth") == []
    assert_same_weights(model, source)


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


# ---- weights ------------------------------------------------------------------------------------------------------


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def assert_same_weights(model: nn.Module, source: nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "student.", "module.student."])
@pytest.mark.parametrize("key", ["", "model", "student", "state_dict", "model_state_dict", "net"])
def test_weights_load_from_every_usual_form(tmp_path: Path, key: str, prefix: str) -> None:
    source, model, of_folder = make_model(), make_model(), make_model()
    state = {f"{prefix}{k}": v for k, v in source.state_dict().items()}
    torch.save({"epoch": 1, key: state} if key else state, tmp_path / "student_best")
    assert load_weights(model, tmp_path / "student_best") == []
    assert_same_weights(model, source)
    weights.load_weights(of_folder, tmp_path)
    assert_same_weights(of_folder, source)


def test_of_upstreams_latest_the_student_is_taken(tmp_path: Path) -> None:
    source, model = make_model(), make_model()
    networks = {"student": source, "teacher": make_model(), "embed_s": nn.Linear(2, 2)}
    state = {f"module.{name}.{k}": v for name, network in networks.items() for k, v in network.state_dict().items()}
    torch.save(
        {"epoch": 3, "model": state, "optimizer": {"lr": np.float64(0.05)}, "best_acc": np.float64(7)}, tmp_path / "latest"
    )
    load_weights(model, tmp_path / "latest")
    assert_same_weights(model, source)


@pytest.mark.parametrize("name", ["model", "module", "student"])
def test_a_networks_own_part_is_not_taken_for_a_wrapper(tmp_path: Path, name: str) -> None:
    source, model = (nn.Sequential(OrderedDict([(name, make_model())])) for _ in range(2))
    for prefix in ("", "module."):
        torch.save({f"{prefix}{k}": v for k, v in source.state_dict().items()}, tmp_path / "f")
        load_weights(model, tmp_path / "f")
        assert_same_weights(model, source)


def with_classes(count: int, *, bias: bool = True) -> nn.Module:
    return nn.Sequential(OrderedDict(body=make_model(), fc=nn.Linear(4, count, bias=bias)))


@pytest.mark.parametrize("bias", [True, False])
def test_a_classifier_of_other_classes_may_be_left(tmp_path: Path, bias: bool) -> None:
    source, model = with_classes(10, bias=bias), with_classes(7, bias=bias)
    own = model.fc.weight.clone()  # type: ignore[union-attr, operator]
    torch.save({"model": source.state_dict()}, tmp_path / "f")
    with pytest.raises(CorruptFileError, match=r"holds weights for 10 classes, and 7 are needed"):
        load_weights(model, tmp_path / "f")
    left = load_weights(model, tmp_path / "f", other_classes=True)
    assert left == (["fc.weight", "fc.bias"] if bias else ["fc.weight"])
    assert torch.equal(model.fc.weight, own)  # type: ignore[union-attr, arg-type]
    assert_same_weights(model.body, source.body)  # type: ignore[arg-type]
    assert load_weights(source, tmp_path / "f", other_classes=True) == []


@pytest.mark.parametrize(
    "change",
    [
        {"fc.weight": torch.zeros(10, 5), "fc.bias": torch.zeros(10)},  # other inputs
        {"fc.bias": torch.zeros(10)},  # of the bias alone
        {"fc.weight": torch.tensor(1.0), "fc.bias": torch.zeros(10)},
        {"fc.weight": torch.zeros(10, 4), "body.0.weight": torch.zeros(5, 3)},  # two modules
        {"fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10), "more": torch.zeros(1)},
        {f"body.1.{name}": torch.zeros(5) for name in ("weight", "bias", "running_mean", "running_var")},
    ],
)
def test_other_classes_excuse_nothing_else(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    model = with_classes(7)
    torch.save({**model.state_dict(), **change}, tmp_path / "f")
    with pytest.raises(CorruptFileError, match="does not fit Sequential"):
        load_weights(model, tmp_path / "f", other_classes=True)


def test_a_mismatch_tells_which_network_would_fit(tmp_path: Path) -> None:
    torch.save({"module.conv1.weight": torch.zeros(1)}, tmp_path / "f")
    asked: list[Any] = []

    def fitting(state: Any) -> list[str]:
        asked.append(list(state))
        return ["cifar100/resnet32x4", "tiny_imagenet/torchvision/x"]

    with pytest.raises(CorruptFileError, match=r"; it would fit resnet32x4 \(cifar100\) or torchvision/x \(tiny_imagenet\)$"):
        load_weights(make_model(), tmp_path / "f", fitting=fitting)
    with pytest.raises(CorruptFileError, match=r"unexpected: conv1\.weight$"):
        load_weights(make_model(), tmp_path / "f", fitting=lambda state: [])
    assert asked == [["conv1.weight"]]


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    model = make_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = dict(model.state_dict())
    del state["0.bias"]
    state |= {"0.weight": torch.zeros(4, 5), **{f"extra.{i}": torch.zeros(1) for i in range(5)}}
    torch.save({"model": state}, tmp_path / "f")
    with pytest.raises(CorruptFileError) as caught:
        load_weights(model, tmp_path / "f")
    text = str(caught.value)
    assert f"{tmp_path / 'f'} does not fit Sequential" in text
    assert "1 missing: 0.bias" in text
    assert "5 unexpected: extra.0, extra.1, extra.2 and 2 more" in text
    assert "1 of another shape: 0.weight [4, 5] for [4, 3]" in text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({}, r"holds no weights.* found the keys \(none\)"),
        ({"model": {}}, "holds no weights.* found the keys model"),
        ({"model": 3, "epoch": 1}, "holds no weights.* found the keys model, epoch"),
        ([1, 2], "holds no weights.* found list"),
        (7, "holds no weights.* found int"),
        ({"model": {"w": 1.0}}, "holds no weights.* found the keys model"),
        ({1: torch.zeros(1)}, "entry 1 of its weights has no name"),
        (
            {"w": torch.zeros(1).to_sparse()},
            "entry 'w' of its weights is no plain tensor but of type cpu torch.sparse_coo torch.float32",
        ),
        ({"w": torch.zeros(1), "epoch": 3}, "entry 'epoch' of its weights is no plain tensor but of type int"),
        ({"model": {"w": torch.zeros(1), "note": "x"}}, "entry 'note' of its weights is no plain tensor but of type str"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, state: Any, found: str) -> None:
    torch.save(state, tmp_path / "f")
    with pytest.raises(CorruptFileError, match=rf"^{tmp_path}/f:? {found}$"):
        load_weights(make_model(), tmp_path / "f")


@pytest.mark.parametrize("other", ["resnet8", None, {"depth": 8}])
def test_a_key_that_holds_no_tensors_is_passed_over(tmp_path: Path, other: Any) -> None:
    source, model = make_model(), make_model()
    torch.save({"model": other, "best_acc": torch.tensor(7.0), "state_dict": source.state_dict()}, tmp_path / "f")
    load_weights(model, tmp_path / "f")
    assert_same_weights(model, source)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(4, dtype=torch.bool), "holds bool numbers where float32 is needed"),
        (torch.ones(4, dtype=torch.int8), "holds int8 numbers where float32 is needed"),
        (torch.ones(4, dtype=torch.complex64), "holds complex64 numbers where float32 is needed"),
        (torch.tensor([0, 1, torch.nan, 0]), "is not finite"),
        (torch.full((4,), torch.inf, dtype=torch.float16), "is not finite"),
    ],
)
def test_numbers_that_cannot_be_weights_are_refused(tmp_path: Path, value: torch.Tensor, message: str) -> None:
    model = make_model()
    torch.save({**model.state_dict(), "1.running_mean": value}, tmp_path / "f")
    with pytest.raises(CorruptFileError, match=rf"f: entry '1\.running_mean' {message}"):
        load_weights(model, tmp_path / "f")
    checkpoint.save(tmp_path / "f", {k: v.half() if k.endswith("weight") else v for k, v in model.state_dict().items()})
    load_weights(model, tmp_path / "f")  # other floats will do


def test_a_training_checkpoint_gives_its_students_weights(tmp_path: Path) -> None:
    """``latest`` lies beside ``student_latest``; naming the one for the other is no mistake."""
    source, model = make_model(), make_model()
    torch.save({"epoch": 3, "student": source.state_dict(), "optimizer": {}}, tmp_path / "latest")
    load_weights(model, tmp_path / "latest")
    assert torch.equal(model[0].weight, source[0].weight)  # type: ignore[index]
