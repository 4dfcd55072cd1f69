"""Odd bytes, texts, names and values, from which hypothesis makes the inputs of tests/system/fuzz."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from mdistiller_ext.config.schema import all_settings
from tests.support.programs import ROOT

LONGEST = 2000  # characters of a message
Fuzz = Callable[..., None]


def assert_one_line(text: str) -> None:
    assert text.isprintable(), text
    assert 0 < len(text) <= LONGEST, f"{len(text)} characters: {text}"


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


def dumped(tree: Any) -> bytes:
    with contextlib.suppress(ValueError):  # a number of more digits than Python writes
        return yaml.safe_dump(tree).encode()
    return b"SOLVER.LR: 0x" + b"f" * 9000


GOOD = [
    ("SOLVER.LR", "0.1"),
    ("SOLVER.EPOCHS", 3),
    ("EXPERIMENT.TAG", "a"),
    ("DISTILLER.TYPE", "KD"),
    ("SOLVER.TRAINER", "dot"),
]


def assert_nothing_ran(folder: Path) -> None:
    trace = folder / "RAN"
    ran = trace.exists()
    trace.unlink(missing_ok=True)  # the next input starts afresh
    assert not ran
