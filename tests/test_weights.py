"""Loading weights into networks: usual forms, mismatches, and files that hold none."""

from __future__ import annotations

import argparse
import os
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mdistiller_ext import checkpoint, weights
from mdistiller_ext.errors import CorruptFileError
from tests.support.checkpoints import Calls, load_weights, make_model


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


def test_old_torchs_state_dict_with_metadata_loads(tmp_path: Path) -> None:
    source = make_model()
    state = source.state_dict()
    assert state._metadata  # type: ignore[attr-defined]
    saved = {"opt": argparse.Namespace(model="x"), "model": state, "best_acc": torch.tensor(72.5), "accuracy": np.float32(1)}
    torch.save(saved, tmp_path / "resnet8x4_last.pth", _use_new_zipfile_serialization=False)
    model = make_model()
    assert load_weights(model, tmp_path / "resnet8x4_last.pth") == []
    assert_same_weights(model, source)


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
