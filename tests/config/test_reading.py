"""Reading yaml: duplicate keys, merges and documents that multiply, names that no file can have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdistiller_ext.config import (
    load_config,
)
from mdistiller_ext.errors import UserError
from tests.support.configs import bomb, load, message, write


@pytest.mark.parametrize("content", ["", "# only a comment\n", "{}", "---\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, content: str) -> None:
    assert load_config(write(tmp_path / "a.yaml", content)) == load_config(None)


@pytest.mark.parametrize(("content", "kind"), [("- a\n- b\n", "list"), ("hello", "str"), ("3", "int")])
def test_a_file_without_settings_is_refused(tmp_path: Path, content: str, kind: str) -> None:
    path = write(tmp_path / "a.yaml", content)
    assert f"{path} must hold settings, KEY: value, not a {kind}" in message(path)


@pytest.mark.parametrize("content", ["SOLVER: {LR: 0.1", "SOLVER:\n\tLR: 0.1\n", "a: b: c", "x: !!python/object:os.system {}"])
def test_broken_yaml_is_told_with_its_line(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "a.yaml", content)
    text = message(path)
    assert f"{path} is not readable yaml" in text
    assert "line" in text


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81" * 10)
    assert f"{path} is not readable yaml" in message(path)


@pytest.mark.parametrize("leaf", ["1", "{}", "[1]"])
def test_a_small_file_of_a_billion_settings_is_refused_at_once(tmp_path: Path, leaf: str) -> None:
    assert "more than 10,000 settings" in message(write(tmp_path / "bomb.yaml", bomb(leaf)))


def test_a_list_of_a_billion_items_is_shown_in_part(tmp_path: Path) -> None:
    lines = ["l0: &l0 [1]", *(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10))]
    text = message(write(tmp_path / "bomb.yaml", "\n".join([*lines, "SOLVER: {LR: *l9}"])))
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("content", "line"),
    [("SOLVER:\n  LR: 0.1\n  LR: 0.2\n", "line 3"), ("KD: {}\nSOLVER: {}\nKD: {}\n", "line 3")],
)
def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path, content: str, line: str) -> None:
    text = message(write(tmp_path / "twice.yaml", content))
    assert "stands twice" in text
    assert line in text
    assert "twice" in message(write(tmp_path / "dotted.yaml", "SOLVER: {LR: 0.1}\nSOLVER.LR: 0.2\n"))


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    text = "KD: &a {LOSS: {CE_WEIGHT: 0.5}, TEMPERATURE: 2}\nLSKD:\n  <<: {CE_WEIGHT: 0.5}\n  CE_WEIGHT: 0.25\n"
    path = write(tmp_path / "merged.yaml", f"DISTILLER: {{TYPE: LSKD, AUG_TEACHER: false}}\n{text}")
    assert load(path)[0].LSKD.CE_WEIGHT == 0.25


def test_merges_that_multiply_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10))]
    assert "more than 10,000 settings" in message(write(tmp_path / "bomb.yaml", "\n".join(lines)))
    assert "SOLVER.LR" in message(None, "SOLVER.LR", "\n".join(lines))


def test_files_whose_bases_multiply_are_refused_at_once(tmp_path: Path) -> None:
    for n in range(40):
        write(tmp_path / f"{n}.yaml", f"_BASE_: [{n + 1}.yaml, {n + 1}.yaml]\n")
    write(tmp_path / "40.yaml", "SOLVER: {LR: 0.1}\n")
    assert "more than 100 files through _BASE_" in message(tmp_path / "0.yaml")


def test_a_chain_of_many_bases_is_no_endless_recursion(tmp_path: Path) -> None:
    for n in range(2000):
        write(tmp_path / f"{n}.yaml", f"_BASE_: {n + 1}.yaml\n")
    assert "more than 100 files through _BASE_" in message(tmp_path / "0.yaml")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300, "x/" * 3000, "a\nb"])
def test_what_cannot_be_the_name_of_a_file_is_not_found(tmp_path: Path, name: str) -> None:
    assert message(name).startswith("config file not found: ")
    path = write(tmp_path / "a.yaml", f"_BASE_: {json.dumps(name)}\n")
    assert message(path).startswith(f"config file not found: {tmp_path}/")


@pytest.mark.parametrize("key", ["LOG.PREFIX", "DATASET.ROOT", "DISTILLER.TEACHER_CKPT", "DISTILLER.STUDENT_CKPT"])
@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_setting_that_cannot_be_the_name_of_a_file_is_named(key: str, name: str) -> None:
    assert message(None, key, name) == f"{key} cannot be the name of a file or folder: {name!r}"


@pytest.mark.parametrize("value", ["!!timestamp x", "!!bool x", "!!int ''", "!!float ''", "2001-99-99"])
def test_a_value_that_does_not_fit_its_tag_is_no_yaml(tmp_path: Path, value: str) -> None:
    assert "is not readable yaml" in message(write(tmp_path / "a.yaml", f"SOLVER: {{LR: {value}}}\n"))
    assert "SOLVER.LR in the command line must be a number" in message(None, "SOLVER.LR", value)


@pytest.mark.parametrize("key", ["SOLVER.LR", "SOLVER.EPOCHS", "EXPERIMENT.TAG", "SOLVER.LR_POLICY", "SOLVER.LR_DECAY_STAGES"])
def test_numbers_of_thousands_of_digits_are_refused(tmp_path: Path, key: str) -> None:
    value = f"0x{'f' * 20_000}"
    text = message(write(tmp_path / "a.yaml", f"{key}: {[value] if key.endswith('STAGES') else value}\n".replace("'", "")))
    assert key in text
    assert "80,000 bits" in text


def test_what_others_wrote_is_said_in_one_line_that_the_terminal_only_shows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", '"LR\\n\\e[31m": 1\n')
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert "unknown setting LR\\n\\x1b[31m in" in str(caught.value)
    assert "a key of 5,000 characters" in message(write(tmp_path / "a.yaml", f"? {'x' * 5000}\n: 1\n"))
    assert "overrides come in pairs" in message(None, "\x1b[31m\n")
    assert len(message(None, "x" * 5000, "1")) <= 2000
    _, said = load(write(tmp_path / "a.yaml", '"SKD.\\n": 1\n'))
    assert said.isprintable()


def test_a_key_of_an_override_that_is_no_text_is_unknown() -> None:
    with pytest.raises(UserError, match="unknown setting"):
        load_config(None, [["SOLVER.LR"], 1])
