"""Damaged checkpoints are found and kept, and the run goes on from the newest whole one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mdistiller_ext import checkpoint
from mdistiller_ext.errors import CorruptFileError
from tests.support.faults import KD_RUN, SMALL, Figures, contents
from tests.support.programs import run_program
from tests.support.runs import assert_identical, assert_one_line_error, assert_same_run, names, stop_after

SEAL_BYTES = len(checkpoint._SEAL) + 64


@pytest.fixture(scope="module")
def stopped_and_whole(
    glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path, Path]:
    """Settings, the folder of a run stopped after a step of its third epoch, and that of the run never stopped."""
    settings = (
        "EXPERIMENT.PROJECT p EXPERIMENT.NAME run DATASET.TYPE glyphs DISTILLER.STUDENT resnet8 "
        "DISTILLER.TEACHER resnet8 SOLVER.EPOCHS 3 SOLVER.DEVICE cpu SOLVER.CHECKPOINT_STEPS 1 "
        f"LOG.SAVE_CHECKPOINT_FREQ 1 DATASET.ROOT {glyphs_root} DISTILLER.TEACHER_CKPT {teacher_file}"
    )
    arguments = [*settings.split(), *SMALL, *KD_RUN]
    places = []
    with pytest.MonkeyPatch.context() as patch:
        for steps in (99, 5):
            place = tmp_path_factory.mktemp("damage")
            stop_after(patch, steps)
            run_program("train.py", *arguments, "LOG.PREFIX", place)
            places.append(place / "p" / "run")
            patch.undo()
    return arguments, places[1], places[0]


@pytest.fixture
def stopped(stopped_and_whole: tuple[list[str], Path, Path], tmp_path: Path) -> tuple[list[str], Path, Path]:
    """The same, in a copy that may be spoilt."""
    arguments, folder, whole = stopped_and_whole
    copy = tmp_path / "p" / "run"
    shutil.copytree(folder, copy)
    return [*arguments, "LOG.PREFIX", str(tmp_path)], copy, whole


def flipped(content: bytes, count: int) -> bytes:
    """With so many bytes changed, the seal's tag apart: without it a file is one of before there were seals."""
    changed = bytearray(content)
    for place in random.sample(range(len(content) - SEAL_BYTES), count):
        changed[place] ^= random.randrange(1, 256)
    return bytes(changed)


def zeroed(content: bytes) -> bytes:
    """A page of zeros, as a file system leaves them after a power cut."""
    pages = [page for page in range(0, len(content), 4096) if content[page : page + 4096].strip(b"\0")]
    page = random.choice(pages)
    return content[:page] + bytes(len(content[page : page + 4096])) + content[page + 4096 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: random.randrange(1, len(content) - SEAL_BYTES)],
    "a byte": lambda content: flipped(content, 1),
    "some bytes": lambda content: flipped(content, random.randrange(2, 50)),
    "a page": zeroed,
    "all zero": lambda content: bytes(len(content)),
    "empty": lambda content: b"",
    "garbage": lambda content: random.randbytes(random.randrange(1, len(content))),
}


def damage(file: Path, how: str) -> bytes:
    content = DAMAGES[how](file.read_bytes())
    file.write_bytes(content)
    return content


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")
def test_a_damaged_latest_is_kept_and_the_run_goes_on_from_the_one_before(
    stopped: tuple[list[str], Path, Path], tmp_path: Path, how: str, soak: bool, figures: Figures
) -> None:
    arguments, folder, whole = stopped
    before = folder.rename(tmp_path / "before")
    for _ in range(8 if soak else 1):
        shutil.copytree(before, folder)
        content = damage(folder / "latest", how)
        resumed = run_program("train.py", "--resume", *arguments)
        assert resumed.status == 0
        assert resumed.err.startswith(f"note: {folder / 'latest'} ("), resumed.err
        assert len(resumed.err.splitlines()) == 1
        assert f"kept as {folder / 'latest.damaged'}; going on after epoch 2: {folder / 'previous'}\n" in resumed.err
        assert (folder / "latest.damaged").read_bytes() == content
        (folder / "latest.damaged").unlink()
        assert_same_run(folder, whole)
        shutil.rmtree(folder)
        figures["damaged checkpoints survived"] += 1


@pytest.mark.parametrize(
    ("damaged", "used"),
    [
        (["latest", "previous"], "epoch_2"),
        (["latest", "previous", "epoch_2"], "epoch_1"),
        (["latest", "previous", "epoch_2", "epoch_1"], "best"),
    ],
)
@pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")
def test_with_several_damaged_the_newest_whole_checkpoint_is_used(
    stopped: tuple[list[str], Path, Path], damaged: list[str], used: str
) -> None:
    arguments, folder, whole = stopped
    for name in damaged:
        damage(folder / name, "a page")
    resumed = run_program("train.py", "--resume", *arguments)
    assert resumed.status == 0
    lines = resumed.err.splitlines()
    assert len(lines) == len(damaged)
    assert all(line.startswith("note: ") and line.endswith(str(folder / used)) for line in lines)
    for name in damaged:
        (folder / f"{name}.damaged").unlink()
    for name in names(whole) - names(folder):  # what was damaged, of epochs that were not trained again
        assert name in damaged
        shutil.copy(whole / name, folder)
    assert_same_run(folder, whole)


@pytest.mark.parametrize("how", ["--resume", "--resume=auto"])
def test_with_all_checkpoints_damaged_nothing_is_changed(stopped: tuple[list[str], Path, Path], how: str) -> None:
    arguments, folder, _ = stopped
    for name in ("latest", "previous", "epoch_1", "epoch_2", "best"):
        damage(folder / name, "a byte")
    before = contents(folder.parent)
    assert_one_line_error(run_program("train.py", how, *arguments), f"{folder / 'latest'} (", "checksum")
    assert contents(folder.parent) == before


def test_without_latest_the_one_before_is_used_without_a_word(stopped: tuple[list[str], Path, Path]) -> None:
    """A kill between two renames leaves that."""
    arguments, folder, whole = stopped
    (folder / "latest").rename(folder / ".latest.7.tmp")
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert_same_run(folder, whole)


@pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")
def test_what_was_found_damaged_is_not_looked_at_again(stopped: tuple[list[str], Path, Path]) -> None:
    arguments, folder, whole = stopped
    for name in ("latest", "previous", "epoch_2"):
        damage(folder / name, "a page")
    assert run_program("train.py", "--resume", *arguments).status == 0
    for name in ("latest", "previous"):
        damage(folder / name, "a page")
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, len(resumed.err.splitlines())) == (0, 2), resumed.err
    assert {path.name for path in folder.glob("*.damaged")} == {"latest.damaged", "previous.damaged", "epoch_2.damaged"}
    for file in folder.glob("*.damaged"):
        file.unlink()
    shutil.copy(whole / "previous", folder)  # the run was over: nothing was saved any more
    assert_same_run(folder, whole)


def test_every_byte_that_changes_is_found_or_harmless(
    stopped_and_whole: tuple[list[str], Path, Path], tmp_path: Path, soak: bool, figures: Figures
) -> None:
    content = (stopped_and_whole[1] / "latest").read_bytes()
    expected, file = checkpoint.load(stopped_and_whole[1] / "latest"), tmp_path / "file"
    tag = range(len(content) - SEAL_BYTES, len(content) - SEAL_BYTES + len(checkpoint._SEAL))
    ends = [*range(40), *range(len(content) - SEAL_BYTES - 30, len(content))]
    for place in [*ends, *random.sample(range(len(content)), 5000 if soak else 100)]:
        file.write_bytes(content[:place] + bytes([content[place] ^ random.randrange(1, 256)]) + content[place + 1 :])
        try:
            found = checkpoint.load(file)
        except CorruptFileError:
            figures["bytes changed and found"] += 1
        else:
            assert_identical(found, expected)
            assert place in tag, place
            figures["bytes changed and harmless"] += 1
    file.write_bytes(content)
    assert_identical(checkpoint.load(file), expected)
