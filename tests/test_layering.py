"""The table of levels (who may import whom), read from the imports themselves."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdistiller_ext.registry import DISTILLERS, TRAINERS
from tests.support.programs import ROOT

PACKAGE = "mdistiller_ext"
LEVELS = {
    0: {
        "errors",
        "command",
        "extras",
        "file_kinds",
        "plugins",
        "project",
        "naming",
        "registry",
        "settings",
        "losses",
        "optim",
        "distributed",
        "rng",
    },
    1: {"meters", "evaluate", "checkpoint", "fetch"},
    2: {"models", "data"},
    3: {"distillers", "weights", "teacher_cache"},
    4: {"trainers", "acceleration", "memory"},
    5: {"config"},
    6: {"bridge", "build", "deployment", "distillation", "network_cost", "networks", "published", "run", "weight_files"},
    7: {"download", "reporting"},
    8: {"analyze", "export", "inspection", "predict", "study"},
    9: {"cli", "compression", "eval", "train"},
}
LEVEL_OF = {room: level for level, rooms in LEVELS.items() for room in rooms}
# Modules that others of the same level may import.
SAME_LEVEL = {0: {"errors"}, 1: LEVELS[1], 6: {"run", "weight_files", "networks"}}
# What a module may import from this package, where the table is stricter than the levels.
ONLY = {
    "errors": set(),
    "project": {"errors"},
    "command": {"errors", "project"},
    "extras": {"errors", "project"},
    "file_kinds": set(),
    "plugins": {"errors"},
    "naming": set(),
    "registry": {"errors"},
    "losses": set(),
    "optim": {"errors"},
    "distributed": {"errors"},
    "rng": {"errors"},
    "settings": set(),
    "fetch": {"errors"},
    "published": {"errors", "command", "project", "config"},
    "distillers": {"errors", "registry", "settings", "losses", "evaluate", "distributed", "models"},
    "weights": {"errors", "checkpoint", "data", "models"},
    "teacher_cache": {"errors", "data"},
    "acceleration": {"errors", "distributed", "models", "distillers"},
    "memory": {"distributed", "evaluate", "distillers"},
    "bridge": {
        *("errors", "command", "registry", "settings", "distributed", "meters", "checkpoint", "models"),
        *("distillers", "trainers", "config"),
    },
    "run": {"errors", "naming", "distributed", "checkpoint", "data", "trainers", "config"},
    "weight_files": {"errors", "project", "registry", "fetch", "models", "config"},
    "distillation": {
        *("errors", "registry", "evaluate", "distributed", "models", "distillers", "trainers", "acceleration", "config")
    },
    "deployment": {"errors", "checkpoint", "data", "weights", "config", "networks"},
    "networks": {"data", "models"},
    "network_cost": {"errors", "registry", "evaluate", "models", "distillers", "config", "networks"},
    "reporting": {"errors", "project", "naming", "checkpoint", "data", "config", "network_cost", "published"},
}
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
# Modules without a test file of their name, and the test file that covers them instead.
COVERED_BY = {
    "rng.py": "system/test_resume.py",  # a resumed run draws the numbers of a run never stopped
    "bridge/__main__.py": "system/test_bridge.py",  # the command
    "bridge/cases.py": "bridge/test_compare.py",  # what is compared
    "bridge/compatibility.py": "bridge/test_checkout.py",  # what makes a checkout importable
    "bridge/known.py": "bridge/test_compare.py",  # a table
    "bridge/sides.py": "bridge/test_compare.py",  # who compares
    "trainers/gradient_exchange.py": "test_distributed.py",  # needs several processes
    "settings.py": "config/test_schema.py",  # annotations, which the schema reads
    "config/upstream_tables.py": "config/test_upstream_settings.py",
    "distillers/outputs.py": "distillers/test_base.py",  # what the base class hands to a method
    "distillers/progress.py": "distillers/test_base.py",
    "data/rendering.py": "data/test_glyphs.py",
    "data/reading.py": "data/test_data.py",  # the steps of create_loaders
    "config/arguments.py": "distillation/test_checks.py",  # settings in a call
    "models/adapter.py": "distillation/test_networks.py",  # networks of one's own
    "networks.py": "test_deployment.py",  # students of runs
    "models/blocks.py": "models/test_models.py",  # parts of the networks
    "models/layers.py": "models/test_models.py",
    "models/heads.py": "distillers/test_simkd.py",  # the head that this method attaches
    "run/curves.py": "system/test_train.py",  # the files of a run
    "run/folder.py": "system/test_train.py",
    "run/logger.py": "system/test_train.py",
    "run/tensorboard.py": "system/test_train.py",
    "run/notes.py": "system/test_data_sets.py",  # notes are mostly about data
    "run/identity.py": "system/test_resume.py",  # what a resumed run must have in common with its checkpoint
    "run/lock.py": "system/faults/test_disk_and_folder.py",  # needs processes that are killed
    "run/resume.py": "system/test_resume.py",
    "train.py": "system/test_train.py",  # the programs
    "eval.py": "system/test_eval.py",
    "study/__main__.py": "study/test_runner.py",  # the command
    "study/commands.py": "study/test_runner.py",
    "study/job.py": "study/test_slurm.py",  # needs a scheduler
    "study/picture.py": "study/test_k_static.py",  # colours, style and size
    "study/process.py": "study/test_runner.py",  # states and errors by how a process ended
    "study/record.py": "study/test_runner.py",
    "analyze/__main__.py": "analyze/test_program.py",  # the command
    "analyze/analysis.py": "analyze/test_program.py",
    "analyze/files.py": "analyze/test_program.py",
    "analyze/objective.py": "analyze/test_runs.py",
    "analyze/landscape_figures.py": "analyze/test_landscape.py",
    "analyze/panels.py": "analyze/test_tradeoff.py",  # parts of pictures
    "analyze/predictions.py": "analyze/test_gap.py",  # what several analyses compare
    "inspection/figures.py": "inspection/test_report.py",
    "export/__main__.py": "export/test_exporting.py",  # the command
    "export/formats.py": "export/test_exporting.py",  # of each format a file
    "compression/__main__.py": "compression/test_measure.py",  # the command
    "compression/files.py": "compression/test_measure.py",
    "reporting/drawing.py": "study/report/test_figures.py",
    "reporting/page.py": "study/report/test_report.py",
    "reporting/table.py": "study/report/test_report.py",
    "study/report/tables.py": "study/report/test_report.py",
    "study/report/content.py": "study/report/test_report.py",
    "study/report/files.py": "study/report/test_report.py",
    "trainers/dot.py": "trainers/test_streams.py",  # a table of streams
    "trainers/loaders.py": "trainers/test_base.py",  # protocols without code
    "trainers/recorder.py": "trainers/test_base.py",  # the base class drops what it is given
    "trainers/shutdown.py": "system/faults/test_stops.py",  # needs processes that get signals
}
ZOOS = "models/test_models.py"  # covers every models/<zoo>/*.py


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """``mdistiller_ext.models.cifar.vgg`` -> ``models``; the package itself is ``""``."""
    return module.split(".")[1] if "." in module else ""


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """Full names of all that a file imports, wherever in it; of ``from x import y`` both x and x.y."""
    return frozenset(_imports(file))


def _imports(file: Path) -> Iterator[str]:
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source != PACKAGE:  # `from .. import checkpoint` imports the module, not the package
                yield source
            yield from (f"{source}.{alias.name}" for alias in node.names if source.split(".")[0] == PACKAGE)


def rooms_imported(file: Path) -> set[str]:
    return {room_of(name) for name in imports(file) if name.split(".")[0] == PACKAGE and room_of(name)}


def names_of(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def mirror_of(module: str) -> str:
    """``trainers/step.py`` -> ``trainers/test_step.py``."""
    folder, _, name = module.rpartition("/")
    return f"{folder}/test_{name}".lstrip("/")


def test_every_module_has_tests_of_its_name_or_a_reason() -> None:
    tests = ROOT / "tests"
    modules = {file.relative_to(ROOT / PACKAGE).as_posix() for file in FILES if file.name != "__init__.py"}
    modules = {module for module in modules if not (module.startswith("models/") and module.count("/") == 2)}
    without = {module for module in modules if not (tests / mirror_of(module)).is_file()}
    assert without == set(COVERED_BY)
    assert all((tests / file).is_file() for file in {*COVERED_BY.values(), ZOOS})


def test_every_module_has_a_level() -> None:
    rooms = {room_of(module_name(file)) for file in FILES} - {""}
    assert rooms <= set(LEVEL_OF)
    assert rooms >= {"errors", "registry", "losses", "optim", "models", "data", "distillers", "trainers", "config", "build"}


@pytest.mark.parametrize("file", FILES, ids=names_of(FILES))
def test_a_module_imports_only_from_lower_levels(file: Path) -> None:
    room = room_of(module_name(file))
    level = LEVEL_OF.get(room, -1)  # the package's own __init__ imports one name, when it is used
    allowed = {r for r, its in LEVEL_OF.items() if its < level} | SAME_LEVEL.get(level, set()) | {room}
    if room in ONLY or not room:
        allowed = (ONLY[room] if room else {"distillation"}) | {room}
    assert rooms_imported(file) <= allowed


@pytest.mark.parametrize("file", FILES, ids=names_of(FILES))
def test_no_module_below_config_knows_a_config_node(file: Path) -> None:
    room = room_of(module_name(file))
    outside = {name.split(".")[0] for name in imports(file)}
    assert ("yacs" in outside) <= (LEVEL_OF.get(room, -1) >= LEVEL_OF["config"])
    above = {"config"} | {name for name, level in LEVEL_OF.items() if level > LEVEL_OF["config"]}
    assert "config" not in rooms_imported(file) or room in above


@pytest.mark.parametrize("name", ["upstream", "upstream_settings", "upstream_tables", "reading"])
def test_reading_and_translating_settings_needs_no_config_node(name: str) -> None:
    file = ROOT / PACKAGE / "config" / f"{name}.py"
    assert rooms_imported(file) <= {"errors", "project", "config"}
    assert "yacs" not in {module.split(".")[0] for module in imports(file)}


@pytest.mark.parametrize("file", sorted((ROOT / PACKAGE / "trainers").glob("*.py")), ids=lambda file: file.name)
def test_trainers_import_no_concrete_method(file: Path) -> None:
    from_distillers = {name for name in imports(file) if room_of(name) == "distillers"}
    known = {
        f"{PACKAGE}.distillers",
        *(f"{PACKAGE}.distillers.base{tail}" for tail in ("", ".ROLES", ".Distiller")),
        *(f"{PACKAGE}.distillers.progress{tail}" for tail in ("", ".Progress")),
        *(f"{PACKAGE}.distillers.outputs{tail}" for tail in ("", ".Batch")),
    }
    assert from_distillers <= known


@pytest.mark.parametrize("file", sorted((ROOT / PACKAGE / "losses").glob("*.py")), ids=lambda file: file.name)
def test_losses_see_no_device_module_or_optimizer(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert not any(word in source for word in ("nn.Module", ".cuda(", "torch.optim", "yacs"))


@pytest.mark.parametrize("file", FILES, ids=names_of(FILES))
def test_methods_and_trainers_are_found_not_listed(file: Path) -> None:
    """A new method is one new file: no other file may name the module of a concrete method or trainer."""
    concrete = {DISTILLERS.get(name).__module__ for name in DISTILLERS} | {TRAINERS.get(name).__module__ for name in TRAINERS}
    concrete -= {f"{PACKAGE}.trainers.base"}
    named = concrete & set(imports(file))
    same_folder = {name for name in named if name.rsplit(".", 1)[0] == module_name(file).rsplit(".", 1)[0]}
    assert named == same_folder  # such as gdkd3, which is a gdkd
    assert not named or file.name != "__init__.py"


@pytest.mark.parametrize(
    ("room", "absent"),
    [
        ("losses", ["mdistiller_ext.optim", "mdistiller_ext.models", "mdistiller_ext.config", "yacs"]),
        ("optim", ["mdistiller_ext.distillers", "mdistiller_ext.config", "yacs"]),
        ("distillers", ["mdistiller_ext.models", "mdistiller_ext.data", "mdistiller_ext.trainers", "yacs"]),
        ("trainers", ["mdistiller_ext.models", "mdistiller_ext.data", "mdistiller_ext.config", "yacs"]),
    ],
)
def test_a_module_can_be_used_alone_from_a_notebook(room: str, absent: list[str]) -> None:
    code = f"import sys, {PACKAGE}.{room}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"
