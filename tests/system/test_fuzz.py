"""Whatever stands in a file or on the command line, it is read, or refused in one line; and it never runs.

hypothesis thinks up the inputs: the same ones each time, or with ``--soak`` many more from a seed that is printed.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import re
import signal
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.configuration
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import nn
from yacs.config import CfgNode

from mdistiller_ext import build, checkpoint
from mdistiller_ext.config import default_config, load_config
from mdistiller_ext.config.schema import all_settings
from mdistiller_ext.data import create_test_loader
from mdistiller_ext.errors import ConfigError, ConfigWarning, UserError
from mdistiller_ext.run import run_folder
from tests.support.checkpoints import load_weights, make_model, traps, upstream_like
from tests.support.programs import ROOT, run_program

pytestmark = [
    pytest.mark.filterwarnings("always::mdistiller_ext.errors.ConfigWarning"),  # run_program's line, not an exception
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),  # about strategies of many words
]
LONGEST = 2000  # characters of a message
PATIENCE = 30  # seconds for one input; most take a few milliseconds

Fuzz = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def no_folder_of_hypothesis(tmp_path_factory: pytest.TempPathFactory) -> None:
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.fixture(scope="module")
def start(pytestconfig: pytest.Config) -> int:
    """What the inputs of ``--soak`` are drawn from."""
    number = int(pytestconfig.getoption("--hypothesis-seed") or random.SystemRandom().getrandbits(32))
    if pytestconfig.getoption("--soak"):
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nthe same inputs again: --soak --hypothesis-seed {number}")
    return number


@pytest.fixture
def fuzz(pytestconfig: pytest.Config, figures: Counter[str], start: int) -> Fuzz:
    """A function of a strategy, how many inputs to try in short and with ``--soak``, what to do with one, and those to try in
    any case. What is done with an input says whether it was accepted.
    """
    soak = pytestconfig.getoption("--soak")

    def run(
        inputs: st.SearchStrategy[Any], sizes: tuple[int, int], accepts: Callable[[Any], bool], known: Iterable[Any] = ()
    ) -> None:
        def attempt(value: Any) -> None:
            with limited_time():
                accepted = accepts(value)
            figures["inputs tried"] += 1
            figures["accepted" if accepted else "refused in one line"] += 1

        @settings(
            max_examples=sizes[soak],
            derandomize=not soak,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def one(value: Any) -> None:
            attempt(value)

        for value in known:
            attempt(value)
        (seed(start)(one) if soak else one)()

    return run


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Fail what takes longer than anybody would wait for a message."""

    def fail(*_: Any) -> None:
        pytest.fail(f"still at it after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def assert_one_line(text: str) -> None:
    assert text.isprintable(), text
    assert 0 < len(text) <= LONGEST, f"{len(text)} characters: {text}"


# ---- damage -------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes], tokens: list[bytes]) -> bytes:
    """One of ``originals`` with bytes flipped, cut out, put in, doubled or moved, or with a part of another in it."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        part, rest = content[start : start + length], content[start + length :]
        kind = draw(st.sampled_from(["flip", "cut", "end", "token", "bytes", "double", "lines", "splice"]))
        if kind == "flip" and start < len(content):
            content = content[:start] + bytes([draw(st.integers(0, 255))]) + content[start + 1 :]
        elif kind == "cut":
            content = content[:start] + rest
        elif kind == "end":
            content = content[:start]
        elif kind == "token":
            content = content[:start] + draw(st.sampled_from(tokens)) + rest
        elif kind == "bytes":
            content = content[:start] + draw(st.binary(max_size=20)) + rest
        elif kind == "double":
            content = content[:start] + part * draw(st.integers(2, 5)) + rest
        elif kind == "lines":
            lines = content.splitlines(keepends=True)
            if lines:
                a, b = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
                lines[a], lines[b] = lines[b], draw(st.sampled_from([lines[a], lines[b]]))
            content = b"".join(lines)
        else:
            other = draw(st.sampled_from(originals))
            content = content[:start] + other[draw(st.integers(0, len(other))) :]
    return content


# ---- configs ------------------------------------------------------------------------------------------------------

RECIPES = [path.read_bytes() for path in sorted((ROOT / "configs").rglob("*.yaml"))[::40]]
SETTINGS = sorted(all_settings())
FOREIGN = ["SOLVER.LR_COS", "SOLVER.DKDOT.TOPK", "SOLVER.DEEPKD.DKD", "DISTILLER.AUG_TEACHER", "GDKD.STRATEGY", "CRD.FEAT.DIM"]
UPSTREAM = yaml.safe_dump(
    {
        "EXPERIMENT": {"NAME": "", "TAG": "a,b"},
        "DISTILLER": {"TYPE": "KD", "TEACHER": "vgg13", "STUDENT": "vgg8", "AUG_TEACHER": True},
        "KD": {"TEMPERATURE": 2, "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": 9}},
        "SOLVER": {"LR_COS": True, "LR": 0.05, "LR_DECAY_STAGES": [150, 180], "TRAINER": "ours", "DEEPKD": {"DKD": True}},
        "CRD": {"FEAT": {"DIM": 128}},
    }
).encode()
# One thing in ten others, ten levels of it.
MAPPINGS = "\n".join(["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10))])
KEYS = "\n".join(["? &a0 [1]\n: 1", *(f"? &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n: 1" for n in range(1, 10))])
YAML = [
    *(
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\r\n",
        b"\r",
        b"\t",
        b"\x85",
        b"\xe2\x80\xa8",
        b"\x1b[31m",
        b"\xed\xa0\x80",
        b"---\n",
    ),
    *(
        b"&a ",
        b"*a ",
        b"<<: *a\n",
        b"<<: ",
        b"? ",
        b": ",
        b"- ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"|\n",
        b">\n",
        b"'",
        b'"',
        b"#",
        b"%",
    ),
    *(b".nan", b"-.inf", b"1e999", b"9" * 400, b"9" * 5000, b"0x" + b"f" * 5000, b"1:" * 900 + b"1", b"0o7", b"1_0", b"~"),
    *(
        b"!!int ",
        b"!!float ",
        b"!!bool ",
        b"!!timestamp ",
        b"!!binary ",
        b"!!set ",
        b"!!omap ",
        b"!!null ",
        b"!!x ",
        b"!<tag> ",
    ),
    *(b"2001-99-99", b"2001-01-01 00:00:00", b'"\\ud800"', b'"\\u202e"', b'"\\0"', b'"\\n"', b"=", b"_BASE_: main.yaml\n"),
    *(b"[" * 3000, b"{a: " * 3000, b"- " * 3000, b"x" * 30000, MAPPINGS.encode(), KEYS.encode()),
    b"!!python/object/apply:os.system ['touch RAN']",
    b"!!python/object/new:os.system ['touch RAN']",
    b"!!python/name:os.system ",
    b"!!python/object/apply:builtins.exec [\"open('RAN', 'w')\"]",
]

ODD_NAMES = [
    "",
    " ",
    ".",
    "..",
    "/",
    "a/b",
    "../../away",
    "a\nb",
    "\x1b[31mred",
    "a\0b",
    "\udc80",
    "\ud800",
    "\u202e",
    "\u00e9" * 300,
]
ODD_NAMES += ["x" * 300, "x" * 5000, "9" * 5000, "--", "-", "-1e-3", "--\n", "-x\x1b[1m", "~", "CON", "0", "None"]

odd_text = st.one_of(
    st.sampled_from(ODD_NAMES),
    st.sampled_from([token.decode(errors="surrogateescape") for token in YAML]),
    st.text(max_size=20),
    st.text(st.characters(), max_size=5),
)
odd_numbers = st.one_of(
    st.integers(), st.sampled_from([10**400, -(10**400), 2**63, -1, 0]), st.floats(allow_nan=True, width=64)
)
odd_values = st.recursive(
    st.one_of(st.none(), st.booleans(), odd_numbers, odd_text, st.dates(), st.binary(max_size=5), st.sampled_from(SETTINGS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(odd_text, st.integers(), st.none(), st.sampled_from(SETTINGS)), inner, max_size=3),
    ),
    max_leaves=6,
)
names = st.one_of(
    st.sampled_from([*SETTINGS, *FOREIGN]),
    st.sampled_from(SETTINGS).map(str.lower),
    st.sampled_from(SETTINGS).flatmap(lambda name: st.integers(0, len(name)).map(lambda n: name[:n] + name[n + 1 :])),
    st.tuples(st.sampled_from(SETTINGS), odd_text).map(".".join),
    odd_text,
)


@st.composite
def trees(draw: st.DrawFn) -> bytes:
    """A real file with keys renamed and values replaced."""
    tree = yaml.safe_load(draw(st.sampled_from([*RECIPES, UPSTREAM])))
    for _ in range(draw(st.integers(1, 3))):
        node = tree
        while node:
            key = draw(st.sampled_from(list(node)))
            if isinstance(node[key], dict) and draw(st.booleans()):
                node = node[key]
                continue
            if draw(st.booleans()):
                node[key] = draw(odd_values)
            else:
                node[draw(names)] = node.pop(key)
            break
    for name, value in draw(st.dictionaries(names, odd_values, max_size=2)).items():
        tree[name] = value
    return dumped(tree)


def dumped(tree: Any) -> bytes:
    with contextlib.suppress(ValueError):  # a number of more digits than Python writes
        return yaml.safe_dump(tree).encode()
    return b"SOLVER.LR: 0x" + b"f" * 9000


@st.composite
def bases(draw: st.DrawFn) -> dict[str, bytes]:
    """Files that build on each other and on what is no file."""
    places = [
        "main.yaml",
        "a.yaml",
        "b.yaml",
        "c.yaml",
        "fifo",
        "folder",
        "folder/../a.yaml",
        "/dev/zero",
        "/dev/null",
        "",
        ".",
    ]
    places += [
        "gone.yaml",
        "/",
        "x" * 300,
        "a\0b",
        "\ud800",
        "a\nb",
        "~",
        "/proc/self/mem",
        str(ROOT / "configs/glyphs/base.yaml"),
    ]
    files = {}
    for name in ("main.yaml", "a.yaml", "b.yaml", "c.yaml"):
        base = draw(st.one_of(st.sampled_from(places), st.lists(st.sampled_from(places), max_size=3), odd_values))
        files[name] = dumped({"_BASE_": base, "SOLVER": {"LR": draw(odd_values)}} if draw(st.booleans()) else {"_BASE_": base})
    return files


@st.composite
def ladders(draw: st.DrawFn) -> dict[str, bytes]:
    """Files of which each builds on the next one several times."""
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    files = {f"{n}.yaml": dumped({"_BASE_": [f"{n + 1}.yaml"] * width}) for n in range(height)}
    return {"main.yaml": dumped({"_BASE_": "0.yaml"}), f"{height}.yaml": b"SOLVER: {LR: 0.1}", **files}


config_files = st.one_of(
    *(
        strategy.map(lambda content: {"main.yaml": content})
        for strategy in (st.binary(max_size=60), damaged([*RECIPES, UPSTREAM], YAML))
    ),
    *(
        strategy.map(lambda content: {"main.yaml": content})
        for strategy in (trees(), st.sampled_from(YAML), odd_values.map(dumped))
    ),
    bases(),
    ladders(),
)
GOOD = [
    ("SOLVER.LR", "0.1"),
    ("SOLVER.EPOCHS", 3),
    ("EXPERIMENT.TAG", "a"),
    ("DISTILLER.TYPE", "KD"),
    ("SOLVER.TRAINER", "dot"),
]


@st.composite
def overrides(draw: st.DrawFn) -> list[Any]:
    pairs = st.one_of(
        st.sampled_from(GOOD),
        st.tuples(st.sampled_from(SETTINGS), st.one_of(st.integers(0, 9), st.text(max_size=5), odd_values)),
        st.tuples(names, st.one_of(odd_values, odd_text)),
    )
    parts = [part for pair in draw(st.lists(pairs, min_size=1, max_size=3)) for part in pair]
    return parts[draw(st.sampled_from([0, 0, 0, 1])) :]


def read_config(path: Path | None, overrides: list[Any]) -> bool:
    """Whether a configuration is accepted, with all that must hold of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            config = load_config(path, overrides)
        except UserError as error:
            assert_one_line(str(error))
            return False
        finally:
            for note in said:
                assert note.category is ConfigWarning, note
                assert_one_line(str(note.message))
    assert config.is_frozen()
    assert same_again(config)
    return True


def same_again(config: CfgNode) -> bool:
    """Whether what a run folder keeps of a configuration stands for it."""
    tree = yaml.safe_load(config.dump())
    return CfgNode(tree).dump() == config.dump()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, for commands that a file must not run to leave their trace in."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    return tmp_path


def assert_nothing_ran(folder: Path) -> None:
    trace = folder / "RAN"
    ran = trace.exists()
    trace.unlink(missing_ok=True)  # the next input starts afresh
    assert not ran


def test_a_config_file_is_read_or_refused_in_one_line(fuzz: Fuzz, folder: Path) -> None:
    def accepts(files: dict[str, bytes]) -> bool:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        accepted = read_config(folder / "main.yaml", [])
        assert_nothing_ran(folder)
        return accepted

    places = [b"", b"SOLVER:\n  LR: ", b"EXPERIMENT.TAG: ", b"SOLVER.LR_POLICY: "]
    known = ({"main.yaml": place + token} for place in places for token in YAML)
    fuzz(config_files, (150, 2000), accepts, known)


def test_overrides_are_read_or_refused_in_one_line(fuzz: Fuzz, folder: Path) -> None:
    def accepts(parts: list[Any]) -> bool:
        accepted = read_config(None, parts)
        assert_nothing_ran(folder)
        return accepted

    tokens = [token.decode(errors="surrogateescape") for token in YAML]
    tokens += ["open('RAN', 'w')", "__import__('os').system('touch RAN')", r"'\d'", "1if 1else 2", "(" * 300, "-" * 9000 + "1"]
    known = ([key, token] for key in ("SOLVER.LR", "EXPERIMENT.TAG", "SOLVER.LR_POLICY", "no") for token in tokens)
    fuzz(overrides(), (100, 1500), accepts, [*known, [["SOLVER.LR"], 1], [None, None], [1]])


def test_any_name_of_a_config_file_is_read_or_refused_in_one_line(fuzz: Fuzz, folder: Path) -> None:
    fuzz(odd_text.map(Path), (100, 300), lambda path: read_config(path, []))


# ---- checkpoints --------------------------------------------------------------------------------------------------


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


# ---- the two programs ---------------------------------------------------------------------------------------------


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
    few = create_test_loader("glyphs", root=glyphs_root, batch_size=2, limit=2)
    monkeypatch.setattr(build, "build_test_loader", lambda *_: few)  # the data sets are not what is tried here
    whole = teacher_file.read_bytes()
    (folder / "cut").write_bytes(whole[:999])
    (folder / "flipped").write_bytes(whole[:5000] + b"\xff" + whole[5001:])
    (folder / "empty").write_bytes(b"")
    (folder / "odd").write_bytes(ODD[0])
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


# ---- the run folder -----------------------------------------------------------------------------------------------


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
