"""Plug-ins from end to end: methods, trainers, models and data sets in a user's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mdistiller_ext import checkpoint
from mdistiller_ext.registry import DATASETS, DISTILLERS, MODELS, TRAINERS
from tests.support.programs import run_program
from tests.support.runs import (
    assert_one_line_error,
    rows,
    stop_after,
)

# ---- a method of one's own ----------------------------------------------------------------------------------------

PLUGIN = """
import torch.nn.functional as F

from mdistiller_ext.distillers import Distiller, register_distiller


@register_distiller("MYMETHOD")
class MyMethod(Distiller):
    def __init__(self, student, teacher, *, ce_weight=1.0, weight=2.0, layers=(1, 2)):
        super().__init__(student, teacher)
        self.ce_weight, self.weight, self.layers = ce_weight, weight, layers

    def losses(self, student, teacher, labels, progress):
        return {
            "task/ce": self.ce_weight * F.cross_entropy(student.logits, labels),
            "kd/mse": self.weight * F.mse_loss(student.logits, teacher.logits),
        }
"""


@pytest.fixture
def plugin(tmp_path: Path, forget_plugins: None) -> Path:
    file = tmp_path / "mine" / "my_method.py"
    file.parent.mkdir()
    file.write_text(PLUGIN)
    (file.parent / "my.yaml").write_text("DISTILLER: {TYPE: MYMETHOD}\nMYMETHOD: {WEIGHT: 0.5, LAYERS: [3]}\n")
    (file.parent / "wrong.yaml").write_text("DISTILLER: {TYPE: MYMETHOD}\nMYMETHOD: {WIEGHT: 0.5}\n")
    return file


def test_a_method_in_the_users_own_file_trains_resumes_and_is_evaluated(tiny: list[str], tmp_path: Path, plugin: Path) -> None:
    arguments = ["--plugin", plugin, "--cfg", plugin.with_name("my.yaml"), *tiny, "SOLVER.EPOCHS", 1, "SOLVER.TRAINER", "dot"]
    finished = run_program("train.py", *arguments, "MYMETHOD.CE_WEIGHT", "2")
    assert (finished.status, finished.err) == (0, "")
    folder = tmp_path / "p" / "run"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["MYMETHOD"] == {"CE_WEIGHT": 2.0, "WEIGHT": 0.5, "LAYERS": [3]}
    assert set(rows(folder)[0]) >= {"task/ce", "kd/mse"}
    assert run_program("train.py", "--resume", *arguments, "MYMETHOD.CE_WEIGHT", "2").status == 0
    DISTILLERS._entries.pop("MYMETHOD")  # as in a process that was not given the plugin
    evaluated = run_program("eval.py", "-c", folder)
    assert (evaluated.status, evaluated.err) == (0, "")


def test_a_wrong_setting_of_ones_own_method_is_told(tiny: list[str], plugin: Path) -> None:
    finished = run_program("train.py", "--plugin", plugin, "--cfg", plugin.with_name("wrong.yaml"), *tiny)
    assert_one_line_error(finished, "unknown setting MYMETHOD.WIEGHT in", "wrong.yaml", "did you mean 'MYMETHOD.WEIGHT'?")


def test_without_its_plugin_a_method_is_unknown_and_the_way_out_is_named(tiny: list[str], plugin: Path) -> None:
    finished = run_program("train.py", "--cfg", plugin.with_name("my.yaml"), *tiny)
    assert_one_line_error(finished, "unknown setting MYMETHOD", "--plugin")


def test_a_plugin_named_like_a_module_in_use_does_not_replace_it(tiny: list[str], tmp_path: Path, plugin: Path) -> None:
    other = plugin.rename(plugin.with_name("random.py"))
    finished = run_program("train.py", "--plugin", other, "--cfg", other.with_name("my.yaml"), *tiny, "SOLVER.EPOCHS", 1)
    assert (finished.status, finished.err) == (0, "")
    import random

    assert hasattr(random, "getstate")


# ---- plug-ins: sources kept, files beside them, names -------------------------------------------------------------------


def test_a_plugin_imports_the_files_beside_it_now_and_later(tiny: list[str], tmp_path: Path, plugin: Path) -> None:
    """What Python calls so wins, as everybody imports it: here random.py, which lies beside the plug-in too."""
    helpers = "import random\nimport weighing\nassert hasattr(random, 'getstate')\n"
    lazily = "import later; return {**later.nothing(), 'kd/mse': weighing.HALF * F.mse_loss(student.logits, teacher.logits), "
    plugin.write_text(helpers + plugin.read_text().replace("return {", lazily))
    for name, code in (("random", "1 / 0"), ("weighing", "HALF = 0.5"), ("later", "def nothing(): return {}")):
        plugin.with_name(f"{name}.py").write_text(code)
    finished = run_program("train.py", "--plugin", plugin, *tiny, "DISTILLER.TYPE", "MYMETHOD", "SOLVER.EPOCHS", 1)
    assert (finished.status, finished.err) == (0, "")
    kept = tmp_path / "p" / "run" / "plugins"
    assert {file.name: file.read_text() for file in kept.iterdir()} == {
        name: plugin.with_name(name).read_text() for name in ("my_method.py", "weighing.py")
    }


@pytest.mark.parametrize("changed", ["my_method.py", "beside.py"])
def test_a_plugin_that_has_changed_is_refused_and_what_it_was_is_kept(
    tiny: list[str], tmp_path: Path, plugin: Path, changed: str
) -> None:
    plugin.with_name("beside.py").write_text("x = 1\n")
    plugin.write_text("import beside\n" + plugin.read_text())
    arguments = ["--plugin", plugin, *tiny, "DISTILLER.TYPE", "MYMETHOD", "SOLVER.EPOCHS", 1]
    assert run_program("train.py", *arguments).status == 0
    file, kept = plugin.with_name(changed), tmp_path / "p/run/plugins" / changed
    source = file.read_text()
    file.write_text(source + "y = 2\n")
    refused = run_program("train.py", "--resume", *arguments)
    assert_one_line_error(refused, f"plugin {changed} is not the one", "SHA-256", f"restore it from {kept}, or start a new run")
    file.write_bytes(kept.read_bytes())
    assert file.read_text() == source
    resumed = run_program("train.py", "--resume", *arguments)
    assert (resumed.status, resumed.err) == (0, "")
    assert "the run began" not in resumed.out


def test_a_plugin_that_comes_or_goes_is_said_and_remembered(
    tiny: list[str], tmp_path: Path, forget_plugins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    for file in (first, second):
        file.write_text("x = 1\n")
    for options, said in (
        (["--plugin", first], None),
        (["--resume"], "the run began with plugin first.py, which is not loaded now\n"),
        (["--resume", "--plugin", first, "--plugin", second], "the run began without plugin second.py\n"),
    ):
        with monkeypatch.context() as patch:
            stop_after(patch, steps=3)  # after an epoch
            stopped = run_program("train.py", *options, *tiny, "SOLVER.EPOCHS", 4)
        assert stopped.status == 130, stopped.err
        assert stopped.out.count("the run began") == (said is not None)
        assert said is None or said in stopped.out
    second.write_text("x = 2\n")
    refused = run_program("train.py", "--resume", "--plugin", second, *tiny, "SOLVER.EPOCHS", 4)
    assert_one_line_error(refused, "plugin second.py is not the one", str(tmp_path / "p/run/plugins/second.py"))


def test_links_in_a_run_folder_are_replaced_by_the_sources_not_followed(tiny: list[str], tmp_path: Path, plugin: Path) -> None:
    arguments = ["--plugin", plugin, *tiny, "DISTILLER.TYPE", "MYMETHOD", "SOLVER.EPOCHS", 1]
    run_program("train.py", *arguments)
    kept, elsewhere = tmp_path / "p/run/plugins", tmp_path / "elsewhere"
    kept.rename(elsewhere)
    kept.symlink_to(elsewhere)
    (elsewhere / "my_method.py").write_text("mine")
    assert run_program("train.py", "--resume", *arguments).status == 0
    assert (elsewhere / "my_method.py").read_text() == "mine"
    assert (kept / "my_method.py").read_bytes() == plugin.read_bytes()


def test_a_plugin_given_twice_is_loaded_once(tiny: list[str], plugin: Path) -> None:
    plugin.write_text("print('loaded')\n" + plugin.read_text())
    again = plugin.parent / ".." / "mine" / plugin.name
    finished = run_program("train.py", "--plugin", plugin, "--plugin", again, "--list", *tiny)
    assert (finished.status, finished.err) == (0, "")
    assert finished.out.count("loaded") == 1


REGISTER = "from mdistiller_ext.distillers import Distiller, register_distiller\n"


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"a/m.py": "", "b/m.py": "x = 1"}, ["/b/m.py: there is another m.py among the plug-ins"]),
        (
            {"m.py": "@register_distiller('X')\nclass A(Distiller): ...\n" * 2},
            ["distiller 'X' is registered twice in ", "m.py, lines 2 and 4; choose another name for one of them"],
        ),
        (
            {"m.py": "@register_distiller('DKD')\nclass A(Distiller): ..."},
            ["distiller 'DKD' is already registered by mdistiller_ext.distillers.dkd.DKD (built in)", "for plugin_m.A"],
        ),
        (
            {f"{name}.py": "@register_distiller('X')\nclass A(Distiller): ..." for name in "mn"},
            ["distiller 'X' is already registered by plugin_m.A; choose another name for plugin_n.A"],
        ),
    ],
)
def test_names_that_are_taken_are_told_in_one_line(
    tmp_path: Path, forget_plugins: None, files: dict[str, str], parts: list[str]
) -> None:
    options = []
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{REGISTER}{code}\n")
        options += ["--plugin", tmp_path / name]
    assert_one_line_error(run_program("train.py", *options, "--list"), *parts)


def test_a_hyper_parameter_may_be_called_name(tiny: list[str], plugin: Path) -> None:
    plugin.write_text(plugin.read_text().replace("layers=(1, 2)):", "layers=(1, 2), name='huber'):"))
    settings = ["DISTILLER.TYPE", "MYMETHOD", "MYMETHOD.NAME", "mse", "SOLVER.EPOCHS", 1]
    finished = run_program("train.py", "--plugin", plugin, *tiny, *settings)
    assert (finished.status, finished.err) == (0, "")


def test_a_plugin_may_bring_trainer_model_and_data_set_too(tiny: list[str], tmp_path: Path, forget_plugins: None) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        """
import torch
from torch import nn

from mdistiller_ext.data import InMemoryDataset, random_crop_flip, register_dataset
from mdistiller_ext.models import register_model
from mdistiller_ext.trainers import BaseTrainer, Stream, register_trainer


@register_trainer("calm")
class CalmTrainer(BaseTrainer):
    @staticmethod
    def streams(momentum, *, calm=0.5):
        return [Stream("all", ("task", "target", "nontarget", "kd"), momentum * calm)]


@register_model("linear")
class Linear(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        pooled = x.mean(dim=(2, 3))
        return self.fc(pooled), {"feats": [], "preact_feats": [], "pooled_feat": pooled}


@register_dataset("noise")
class Noise(InMemoryDataset):
    num_classes = 4
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    augment = staticmethod(random_crop_flip)

    def load(self, root):
        images = torch.randint(256, (80, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
        return (images[:60], torch.arange(60) % 4), (images[60:], torch.arange(20) % 4)
"""
    )
    mine = ["DATASET.TYPE", "noise", "DISTILLER.STUDENT", "linear", "SOLVER.TRAINER", "calm", "SOLVER.CALM.CALM", "0.25"]
    done = run_program("train.py", "--plugin", plugin, *tiny, *mine)
    assert done.status == 0, done.err
    state = checkpoint.load(tmp_path / "p/run/latest")
    assert state["optimizer"]["param_groups"][0]["momentum"] == {"all": 0.9 * 0.25}
    evaluated = run_program("eval.py", "--plugin", plugin, "-c", tmp_path / "p/run")
    assert "linear (16 parameters)" in evaluated.out
    assert "20 test images of noise" in evaluated.out
    TRAINERS._entries.pop("calm")  # as in a process that was not given the plugin
    for registry, name, kind in ((MODELS, "cifar100/linear", "model 'linear'"), (DATASETS, "noise", "data set 'noise'")):
        assert run_program("eval.py", "-c", tmp_path / "p/run").status == 0
        entry = registry._entries.pop(name)
        assert_one_line_error(run_program("eval.py", "-c", tmp_path / "p/run"), f"unknown {kind}", "--plugin")
        registry._entries[name] = entry
