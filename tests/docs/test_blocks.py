"""The code blocks of the README and the pages: Python runs, YAML loads, commands have the options and settings they name."""

from __future__ import annotations

import argparse
import contextlib
import glob
import importlib
import io
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from torch.distributed.run import parse_args as parse_torchrun

from mdistiller_ext.config import load_config
from mdistiller_ext.study.plan import plan_study
from tests.support.documents import PAGES, blocks_of, commands
from tests.support.programs import ROOT, program_main, run_main

LANGUAGES = {"python", "yaml", "bash", "text"}
# Commands of the shell, and of other programs that set up what the page is about.
OF_THE_SHELL = {"cd", "export", "source", "pip"}
# Paths that stand for the reader's own.
OWN = ("path/to/", "~/")
IN_THE_REPOSITORY = ("configs", "mdistiller_ext", "studies", "teachers", "train.py", "eval.py")


class Parsed(BaseException):
    """What a program has parsed, in place of what it would do next."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, glyphs_root: Path, teacher_file: Path) -> Path:
    """A folder like the root of a clone in which runs and a study, of one epoch, have finished, with a folder of an image."""
    folder = tmp_path_factory.mktemp("clone")
    for name in IN_THE_REPOSITORY:
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").symlink_to(glyphs_root)
    run = ["--cfg", "configs/glyphs/deepkd/res20_res8.yaml", *smoke(folder), "DATASET.TEST.BATCH_SIZE", 64]
    run += ["DISTILLER.TEACHER", "resnet8", "DISTILLER.TEACHER_CKPT", teacher_file, "DEEPKD.PHASE_ENDS", "[1,1]"]
    run += ["SOLVER.RECORD", "[gsnr, conflict]", "SOLVER.RECORD_EVERY", 1, "SOLVER.RECORD_WINDOW", 2]
    finished = run_main(program_main("train.py"), "train.py", *run, "EXPERIMENT.NAME", "deepkd,res20,res8")
    assert finished.status == 0, finished.err
    shutil.copytree(folder / "output/glyphs", folder / "output/my_study")
    shutil.copytree(folder / "output/glyphs/deepkd,res20,res8", folder / "output/glyphs/kd,res20,res8")
    (folder / "folder").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "folder/0001.png")
    return folder


def smoke(folder: Path) -> list[Any]:
    """Settings that make a run small, and its results part of ``folder``."""
    settings = {"SOLVER.EPOCHS": 1, "SOLVER.BATCH_SIZE": 16, "DATASET.LIMIT": 64, "SOLVER.DEVICE": "cpu"}
    settings |= {"DATASET.ROOT": folder / "data", "LOG.PREFIX": folder / "output"}
    return [word for pair in settings.items() for word in pair]


@pytest.fixture
def in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch, forget_plugins: None) -> Iterator[Path]:
    monkeypatch.chdir(workspace)
    before = set(workspace.iterdir())
    yield workspace
    for path in set(workspace.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_work(page: Path, in_workspace: Path) -> None:
    namespace: dict[str, Any] = {}
    files: set[str] = set()  # those that blocks have defined
    used: set[str] = set()
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block}: the language of a block is one of {LANGUAGES}"
        if block.not_run or block.language == "text":
            continue
        if block.file:
            (in_workspace / block.file).write_text(block.text, encoding="utf-8")
            files.add(block.file)
        elif block.language == "python":
            exec(compile(block.text, str(block), "exec"), namespace)
        elif block.language == "yaml":
            load_yaml(block.text, in_workspace)
        else:
            for words in commands(block.text):
                used |= files & set(words)
                try:
                    check_command(words, files)
                except BaseException as error:
                    raise AssertionError(f"{block}: {' '.join(words)}: {error}") from error
    assert used == files, "each file that a page defines is used by one of its commands"


def load_yaml(text: str, folder: Path) -> None:
    """Load a study, or a configuration or a part of one."""
    file = folder / "block.yaml"
    file.write_text(text, encoding="utf-8")
    plan_study(str(file)) if "RUNS" in yaml.safe_load(text) else load_config(file)


def check_command(words: list[str], files: set[str]) -> None:
    """Check a command's program, options, files and settings; run a training with the page's own ``files``."""
    program, *rest = words
    if program in OF_THE_SHELL or re.match(r"\w+=", program):
        return
    if program == "srun":
        check_command(rest, files)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no target {rest[0]}"
    elif program == "torchrun":
        torchrun = parse_torchrun(rest)
        check_command(["python", torchrun.training_script, *torchrun.training_script_args], files)
    elif words[:2] == ["python", "-c"]:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(rest[1], {})
    elif words[:2] == ["python", "-m"]:
        check_program(rest[1], main_of(rest[1]), rest[2:])
    elif program == "python" and files & set(rest):
        finished = run_main(program_main(rest[0]), *rest, *smoke(Path.cwd()))
        assert finished.status == 0, finished.err
    elif program == "python":
        check_program(rest[0], program_main(rest[0]), rest[1:])
    else:
        assert program == "mdistiller-ext", "not a program that is known here"
        script = re.search(r'^mdistiller-ext = "([\w.]+):(\w+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert script is not None, "pyproject.toml does not install it"
        check_program(program, getattr(importlib.import_module(script[1]), script[2]), rest)


def main_of(module: str) -> Callable[[], None]:
    """``main`` of what ``python -m`` runs."""
    imported = importlib.import_module(module)
    main: Callable[[], None] = (imported if hasattr(imported, "main") else importlib.import_module(f"{module}.__main__")).main
    return main


def check_program(name: str, main: Callable[[], None], words: list[str]) -> None:
    """Let a program parse its arguments, and load the configurations and settings among them."""
    if name == "mdistiller_ext.bridge" and words[0] != "compare":
        assert len(words) > 1  # a checkout, and its script with arguments of its own
        return
    words = [path for word in words for path in sorted(glob.glob(word)) or [word]]
    arguments = parsed(name, main, words)
    if getattr(arguments, "upstream", None) or any(path.startswith(OWN) for path in cfgs_of(arguments)):
        return
    if hasattr(arguments, "opts"):
        load_config(next(iter(cfgs_of(arguments)), None), arguments.opts, for_evaluation="eval" in name)
    elif hasattr(arguments, "seeds"):
        study = getattr(arguments, "study", None)
        plan_study(study, cfgs_of(arguments), seeds=arguments.seeds, settings=arguments.set)


def cfgs_of(arguments: argparse.Namespace) -> list[str]:
    cfg = getattr(arguments, "cfg", None) or []
    return [cfg] if isinstance(cfg, str) else cfg


def parsed(name: str, main: Callable[[], None], words: list[str]) -> argparse.Namespace:
    """What a program's parser makes of the words of its command line."""

    def stop_after(parse: Callable[..., argparse.Namespace]) -> Callable[..., argparse.Namespace]:
        def parse_and_stop(self: argparse.ArgumentParser, *values: Any, **more: Any) -> argparse.Namespace:
            raise Parsed(parse(self, *values, **more))

        return parse_and_stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *words])
        for method in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, method, stop_after(getattr(argparse.ArgumentParser, method)))
        with pytest.raises(Parsed) as caught:
            main()
    return caught.value.arguments


def test_blocks_that_are_not_run_are_few_and_say_why() -> None:
    exempt = [block for page in PAGES for block in blocks_of(page) if block.not_run]
    assert len(exempt) <= 2, [f"{block}: {block.not_run}" for block in exempt]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python train.py --cfg configs/glyphs/kd/no_such.yaml", "no_such.yaml"),
        ("python train.py --cfg configs/glyphs/kd/res20_res8.yaml SOLVER.LRR 0.1", "SOLVER.LRR"),
        ("python train.py --no-such-option", "no-such-option"),
        ("torchrun --nproc-per-node 2 train.py --cfg configs/glyphs/kd/res20_res8.yaml KD.NO 1", "KD.NO"),
        ("python -m mdistiller_ext.study run --cfg configs/glyphs/kd/res20_res8.yaml --set KD.NO=1", "KD.NO"),
        ("python -m mdistiller_ext.analyze gsnr output/x --no-such-option", "no-such-option"),
        ("make no_such_target", "no target"),
        ("srun some_program", "not a program"),
    ],
)
def test_a_wrong_command_is_found(command: str, message: str, in_workspace: Path) -> None:
    with pytest.raises(BaseException, match=message):
        check_command(command.split(), set())


def test_links_lead_to_files_of_the_repository() -> None:
    """On GitHub; the strict build checks those within the site."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md"]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_recipes_that_pages_name_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`(configs/[^`\s<]+)`", page.read_text(encoding="utf-8")):
            assert list(ROOT.glob(name.rstrip("/"))), f"{page.relative_to(ROOT)}: {name}"
