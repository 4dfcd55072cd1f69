"""A config file or an override is read, or refused in one line, and it never runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from yacs.config import CfgNode

from mdistiller_ext.config import load_config
from mdistiller_ext.errors import ConfigWarning, UserError
from tests.support.fuzzing import (
    GOOD,
    RECIPES,
    SETTINGS,
    UPSTREAM,
    YAML,
    Fuzz,
    assert_nothing_ran,
    assert_one_line,
    damaged,
    dumped,
    names,
    odd_text,
    odd_values,
)
from tests.support.programs import ROOT

pytestmark = [
    pytest.mark.filterwarnings("always::mdistiller_ext.errors.ConfigWarning"),  # run_program's line, not an exception
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),  # about strategies of many words
]


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
