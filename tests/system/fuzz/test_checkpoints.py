"""A checkpoint is read, or refused in one line, and it never runs."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from mdistiller_ext import checkpoint
from mdistiller_ext.errors import UserError
from tests.support.checkpoints import load_weights, make_model, traps, upstream_like
from tests.support.fuzzing import Fuzz, assert_nothing_ran, assert_one_line, damaged

pytestmark = [
    pytest.mark.filterwarnings("always::mdistiller_ext.errors.ConfigWarning"),  # run_program's line, not an exception
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),  # about strategies of many words
]


def saved(content: Any, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def odd_contents() -> list[Any]:
    """What is no checkpoint of a network, or of a very odd one."""
    bytes_ = torch.zeros(8, dtype=torch.uint8)
    types = ["bits8", "float4_e2m1fn_x2", "float8_e5m2", "bool", "complex64", "uint16", "float64", "int32"]
    odd = [bytes_.view(getattr(torch, name))[:1].expand(4) for name in types if hasattr(torch, name)]
    odd += [torch.zeros(1).expand(2**45), torch.zeros(1).expand(4), torch.zeros(4).to_sparse(), torch.zeros(4, device="meta")]
    odd += [torch.full((4,), float("nan")), torch.full((4,), 1e300, dtype=torch.float64), nn.Parameter(torch.ones(4))]
    odd += [torch.zeros(0), torch.tensor(1.0), [torch.zeros(4)], None, "text", 2**2000]
    state = make_model().state_dict()
    return [{"model": state | {"0.bias": value}} for value in odd] + odd + [{}, {5: torch.zeros(1)}, {"model": {}}, {(1, 2): 3}]


def rewritten(content: bytes, change: Callable[[str, bytes], bytes], *, twice: str = "", packed: bool = False) -> bytes:
    """A zip with its parts changed, so that sizes and checksums are right; one part ``twice``, or all of them ``packed``."""
    buffer, kind = io.BytesIO(), zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(buffer, "w", kind) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the part that stands twice
        for part in whole.namelist():
            new.writestr(
                zipfile.ZipInfo(part), change(part, whole.read(part)), kind
            )  # an undated part: the same bytes each time
            if part.endswith(twice or "\0"):
                new.writestr(zipfile.ZipInfo(part), b"")
    return buffer.getvalue()


def named(name: str) -> bytes:
    module, _, leaf = name.rpartition(".")
    return f"c{module}\n{leaf}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


# Words of pickle's language, from one opcode to whole objects.
STORAGE = b"(" + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + b"K\x0ctQ"
ARGUMENTS = b"(" + STORAGE + b"K\x00K\x04\x85K\x01\x85\x89" + named("collections.OrderedDict") + b")Rt"
TENSOR = named("torch._utils._rebuild_tensor_v2") + ARGUMENTS + b"R"
ORDERED = named("collections.OrderedDict") + b")R"
TYPED = named("torch._tensor._rebuild_from_type_v2") + b"(" + named("torch._utils._rebuild_tensor_v2")
TYPED += named("torch.Tensor") + ARGUMENTS
NAMES = ["model", "student", "0.weight", "w", "get", "items", "keys", "values", "_metadata", "to", "detach", "storage", "cpu"]
NAMES += ["latin1", "\x1b[2J\n", "f8", "__class__", "__dict__"]
ALLOWED = ["collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "torch.FloatStorage", "builtins.set"]
ALLOWED += ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch._tensor._rebuild_from_type_v2"]
ALLOWED += ["torch.Tensor", "torch.nn.parameter.Parameter", "numpy.dtype", "numpy.core.multiarray.scalar", "argparse.Namespace"]
ALLOWED += ["torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_sparse_tensor", "_codecs.encode"]
REFUSED = ["os.system", "posix.system", "builtins.eval", "builtins.getattr", "torch.load", "torch.hub.load", "a\x1b[1m.b"]
WORDS = [
    *(bytes([code]) for code in b"().]}012NRabdehlostuQ\x81\x85\x86\x87\x88\x89\x8f\x90\x93\x94\x95"),
    *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"r\xff\xff\xff\xff", b"j\x00\x00\x00\x01", b"K\x01", b"J\xff\xff\xff\xff"),
    *(b"\x8a\xff" + b"\xff" * 255, b"\x8b\xff\xff\xff\x7f", b"U\xff", b"X\xff\xff\xff\xff", b"\x80\x05", b"P0\n"),
    *(b"I" + b"9" * 5000 + b"\n", b"G" + b"\x7f" * 8, b"K\x01" * 2000, b"(" * 2000),
    *map(text, NAMES),
    *map(named, ALLOWED + REFUSED),
    *(TENSOR, TYPED, ORDERED, b"}" + text("0.bias") + TENSOR + b"s"),
    *(named("os.system") + text("touch RAN") + b"\x85R", named("builtins.exec") + text("open('RAN','w')") + b"\x85R"),
    b")" + b"q\x00h\x00\x86" * 12,  # a tuple of one tuple twice, twelve levels of it
]
torch.manual_seed(0)  # the same bytes each time
CHECKPOINT = {"model": make_model().state_dict(), "epoch": 3}
WHOLE = [
    saved(content, zipped=zipped) for content in (CHECKPOINT, CHECKPOINT["model"], upstream_like()) for zipped in (True, False)
]
ODD = [saved(content, zipped=zipped) for content in odd_contents() for zipped in (True, False)]
TRAPS = [saved({"w": trap}, zipped=zipped) for trap in traps(Path("RAN")).values() for zipped in (True, False)]
TRAPS += [pickle.dumps(trap, protocol=protocol) for trap in traps(Path("RAN")).values() for protocol in range(6)]
ZIPS = [content for content in [*WHOLE, *ODD[:8], *TRAPS] if content.startswith(b"PK")]
OLD = [content for content in WHOLE if not content.startswith(b"PK")]


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """A zip whose parts are damaged, and which is itself whole."""
    content = draw(st.sampled_from(ZIPS))
    leaf = draw(st.sampled_from(["data.pkl", "data.pkl", "data.pkl", "data/0", "byteorder", "version", "serialization_id"]))

    def change(name: str, part: bytes) -> bytes:
        return draw(damaged([part], WORDS)) if name.endswith(leaf) else part

    twice = draw(st.sampled_from(["", "", "data.pkl", "data/0", "version"]))
    return rewritten(content, change, twice=twice, packed=draw(st.integers(0, 9)) == 9)


def entries(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(key + value + b"s" for key, value in pairs)


# Whole objects in pickle's language, which torch reads; what it then holds may be anything.
keys = st.sampled_from([*map(text, NAMES), text("0.bias"), TENSOR, b"K\x01", b")", b"N"])
objects = st.recursive(
    st.one_of(st.just(TENSOR), keys, st.sampled_from([*map(named, ALLOWED), b"\x8a\xff" + b"\x7f" * 255])),
    lambda inner: st.one_of(
        st.lists(st.tuples(keys, inner), max_size=3).map(lambda pairs: b"}" + entries(pairs)),
        st.lists(st.tuples(keys, inner), max_size=3).map(lambda pairs: ORDERED + entries(pairs)),
        st.lists(inner, max_size=3).map(lambda items: b"(" + b"".join(items) + b"t"),
        st.tuples(inner, st.lists(st.tuples(keys, inner), max_size=3)).map(
            lambda parts: parts[0] + b"}" + entries(parts[1]) + b"b"
        ),
        st.lists(st.tuples(keys, inner), max_size=3).map(lambda attributes: TYPED + b"}" + entries(attributes) + b"tR"),
        st.tuples(st.sampled_from(ALLOWED), st.lists(inner, max_size=3)).map(
            lambda parts: named(parts[0]) + b"(" + b"".join(parts[1]) + b"tR"
        ),
    ),
    max_leaves=8,
)
networks = st.lists(
    st.tuples(st.sampled_from([*map(text, NAMES), text("0.bias")]), st.one_of(st.just(TENSOR), objects)), max_size=3
)
hidden = st.lists(st.tuples(st.sampled_from([*map(text, NAMES)]), objects), max_size=2)
attributed = st.tuples(networks, hidden).map(lambda parts: ORDERED + entries(parts[0]) + b"}" + entries(parts[1]) + b"b")


def zipped_program(body: bytes) -> bytes:
    """A checkpoint with a pickle of one's own."""
    return rewritten(WHOLE[0], lambda name, part: b"\x80\x02" + body + b"." if name.endswith("data.pkl") else part)


def old_program(body: bytes) -> bytes:
    """The same in torch's older form, after the pickles of a number, the version and the machine."""
    header = io.BytesIO(OLD[0])
    for _ in range(3):
        pickle.load(header)
    return OLD[0][: header.tell()] + b"\x80\x02" + body + b"."


programs = st.tuples(
    st.sampled_from([zipped_program, zipped_program, old_program]),
    st.one_of(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(b"".join),
        objects,
        attributed,
        attributed.map(lambda network: b"}" + text("model") + network + b"s"),
    ),
).map(lambda parts: parts[0](parts[1]))
checkpoints = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.binary(max_size=20), st.sampled_from([*WHOLE, *TRAPS])).map(b"".join),
    damaged([*WHOLE, *TRAPS], WORDS),
    st.sampled_from([*WHOLE, *ODD, *TRAPS]),
    zips(),
)


def reads_checkpoint(folder: Path, model: nn.Module, content: bytes) -> bool:
    (folder / "checkpoint").write_bytes(content)
    accepted = True
    for read in (checkpoint.load, lambda path: load_weights(model, path, other_classes=True)):
        try:
            read(folder / "checkpoint")
        except UserError as error:
            assert_one_line(str(error))
            accepted = False
    assert_nothing_ran(folder)
    return accepted


def test_a_damaged_checkpoint_is_read_or_refused_in_one_line(fuzz: Fuzz, folder: Path) -> None:
    known = [*WHOLE, *ODD, *TRAPS]
    fuzz(checkpoints, (200, 2500), lambda content: reads_checkpoint(folder, make_model(), content), known)


def test_a_checkpoint_that_is_made_up_is_read_or_refused_in_one_line(fuzz: Fuzz, folder: Path) -> None:
    model = nn.ParameterDict({"w": torch.zeros(4)})  # which some of them fit
    entry = text("w") + TENSOR + b"s"
    known = [ORDERED + entry + b"}" + text(name) + b"K\x01sb" for name in NAMES]
    known += [b"}" + text("w") + TYPED + b"}" + text(name) + b"K\x01stRs" for name in NAMES]
    known += [*WORDS, b"}" + entry]
    fuzz(programs, (200, 2500), lambda content: reads_checkpoint(folder, model, content), map(zipped_program, known))
