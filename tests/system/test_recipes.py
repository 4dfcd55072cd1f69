"""The files in ``configs/``: every one can be built, every published pair has one, and they say what upstream's say."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from mdistiller_ext import build
from mdistiller_ext.config import default_config, load_config
from mdistiller_ext.data import DataIdentity
from mdistiller_ext.data.identity import SplitIdentity
from mdistiller_ext.models import check_model_name, create_model
from mdistiller_ext.published import NOT_STATED, method_name, published_for, published_results, recipe_differences
from mdistiller_ext.registry import DATASETS, DISTILLERS
from tests.support.programs import GOLDEN, ROOT

CONFIGS = sorted((ROOT / "configs").glob("*/*/*.yaml"))
BASES = sorted((ROOT / "configs").glob("*/*.yaml"))
IDS = [str(path.relative_to(ROOT / "configs")) for path in CONFIGS]
# The directory of each method and trainer, as recipes.csv names them.
BASELINES = ("AT", "CRD", "FITNET", "KDSVD", "MLKD", "NST", "OFD", "PKT", "REVIEWKD", "RKD", "SP", "VID")
FOLDERS = {
    **{(method, trainer): method.lower() for method in BASELINES for trainer in ("base", "crd")},
    **{(method, "base"): method.lower() for method in ("KD", "DKD", "GDKD", "GDKD3", "DIST", "LSKD")},
    ("KD", "dot"): "dot",
    ("DKD", "dot"): "dot_dkd",
    ("KD", "deepkd"): "deepkd_kd",
    ("DKD", "deepkd"): "deepkd_dkd",
}

DATA = DataIdentity(None, SplitIdentity(640, ""))


_DIST_PAIRS = ("res56_res20", "res32x4_res8x4", "res32x4_shuv1", "res32x4_shuv2", "res50_mv2", "wrn40_2_wrn_40_1")


@functools.cache
def recipe(path: Path) -> Any:
    """The configuration of a file, which is frozen."""
    return load_config(path)


@functools.cache
def empty_model(name: str, dataset: str, num_classes: int, role: str) -> nn.Module:
    """A network whose weights are all zero, built without the cost of initialising it; one for each role."""
    with torch.device("meta"):
        model = create_model(name, dataset=dataset, num_classes=num_classes)
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.zero_()
    return model


def zero_convolution(layer: nn.Conv2d, images: Tensor) -> Tensor:
    """What a convolution with weights of zero gives, uncomputed."""
    assert images.shape[1] == layer.in_channels
    geometry = zip(images.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    size = [(n + 2 * int(pad) - dilation * (kernel - 1) - 1) // stride + 1 for n, kernel, stride, pad, dilation in geometry]
    assert min(size) > 0
    return images.new_zeros(len(images), layer.out_channels, *size)


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds a run from its configuration alone: no data, no weights, and small images where the networks allow it."""

    def loaders(config: Any, device: torch.device) -> tuple[Any, Any]:
        classes = DATASETS.get(config.DATASET.TYPE).num_classes or 7
        loader = SimpleNamespace(
            num_images=640,
            batch_size=64,
            image_shape=(3, 32, 32),
            num_classes=classes,
            identity=DATA,
            labels=torch.arange(640) % classes,
        )
        loader = type("Loader", (SimpleNamespace,), {"__len__": lambda self: 10})(**vars(loader))
        return loader, loader

    roles = iter(["student", "teacher"])
    monkeypatch.setattr(nn.Conv2d, "forward", zero_convolution)
    monkeypatch.setattr(build, "build_loaders", loaders)
    monkeypatch.setattr(build, "teacher_path", lambda *asked: Path(__file__))  # read for its checksum alone
    monkeypatch.setattr(build, "student_path", lambda *asked: None)
    monkeypatch.setattr(build, "shortage", lambda *asked: [])  # networks without weights cannot be tried
    monkeypatch.setattr(build, "load_weights", lambda *asked, **more: None)
    monkeypatch.setattr(
        build, "build_model", lambda name, loader, dataset, **init: empty_model(name, dataset, loader.num_classes, next(roles))
    )


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_every_config_builds(path: Path, without_data: None) -> None:
    """Models, data set, method, trainer, optimizer and schedule, with no warning."""
    config = load_config(path, ["SOLVER.FOLD_TEACHER", False])  # folding takes half of the time, and has tests of its own
    trainer = build.build_trainer(config)
    assert trainer.optimizer.param_groups[0]["lr"] > 0
    assert trainer.epochs == config.SOLVER.EPOCHS
    assert path.parts[-3] == config.DATASET.TYPE or path.parts[-3] == "folder"
    if config.SOLVER.LR_SCHEDULER != "onecycle":
        rate = trainer.scheduler.lr_lambdas[0]
        assert 0 < rate(trainer.epochs - 1) < 0.02  # of the initial one, in the last epoch


def test_every_config_says_how_to_run_it_and_what_was_published() -> None:
    for path in CONFIGS:
        lines = [line.removeprefix("# ") for line in path.read_text(encoding="utf-8").splitlines() if line[0] == "#"]
        assert f"python train.py --cfg {path.relative_to(ROOT)}" in lines[0]
        if path.parts[-3] == "glyphs" or path.parts[-2] == "teachers_aug":
            continue
        for published in published_for(recipe(path)):
            assert f"{float(published.top1):.2f}" in " ".join(lines), path
            assert published.source in " ".join(lines), path


NAMED = ("DATASET.TYPE", "DISTILLER.TYPE", "DISTILLER.TEACHER", "DISTILLER.STUDENT")


def dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a nested dictionary by dotted names."""
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        settings |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return settings


DEFAULTS = dotted(default_config())


@functools.cache
def bases_and_settings(path: Path) -> tuple[list[Path], dict[str, Any]]:
    """The files that a config names as its bases, and the settings that it gives itself."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    bases = content.pop("_BASE_", [])
    return [(path.parent / base).resolve() for base in ([bases] if isinstance(bases, str) else bases)], dotted(content)


def inherited_settings(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for base in bases_and_settings(path)[0]:
        settings |= inherited_settings(base) | bases_and_settings(base)[1]
    return settings


def test_a_config_repeats_nothing_of_its_base() -> None:
    """Nor a default, except that the data set, method and networks may be named. TAG may always be given."""
    for path in [*BASES, *CONFIGS]:
        given = {name: value for name, value in DEFAULTS.items() if name not in NAMED} | inherited_settings(path)
        repeated = {name for name, value in bases_and_settings(path)[1].items() if name in given and given[name] == value}
        assert repeated <= {"EXPERIMENT.TAG"}, path


def test_every_base_is_the_base_of_a_file() -> None:
    used = {base for path in [*BASES, *CONFIGS] for base in bases_and_settings(path)[0]}
    assert set(BASES) <= used


def test_a_recipe_of_deepkds_release_follows_the_release_and_the_others_the_paper() -> None:
    for path in CONFIGS:
        config, named = recipe(path), "Recipe: DeepKD's release" in path.read_text(encoding="utf-8")
        assert named == (path.parts[-2] in ("deepkd_dkd", "deepkd_kd") and path.parts[-3] != "glyphs_hard"), path
        assert ("official" if named else "paper") == config.SOLVER.DEEPKD.RULE, path
        assert ("official" if named and path.parts[-2] == "deepkd_kd" else "paper") == config.KD.RULE, path


def test_every_pair_of_upstream_s_files_has_a_config() -> None:
    with open(GOLDEN / "recipes.csv", encoding="utf-8", newline="") as file:
        recipes = [row for row in csv.DictReader(file) if (row["distiller"], row["trainer"]) in FOLDERS]
    assert len(recipes) > 250
    known = {_key(path) for path in CONFIGS}
    missing = set()
    for row in recipes:
        settings = json.loads(row["settings_json"])
        method = "DKD" if settings.get("SOLVER.DEEPKD.DKD") else row["distiller"]
        key = row["dataset"], FOLDERS[method, row["trainer"]], row["teacher"], row["student"]
        if (
            key not in known and row["file"] != "configs/cifar100/kd.yaml"
        ):  # LSKD's kd.yaml: a pair of its own kd/ at another rate
            missing.add(key)
    assert not missing


def test_every_published_accuracy_has_a_config() -> None:
    """Of the method, whatever the recipe of the published run; of a student alone, also as a teacher."""
    known = set()
    for path in CONFIGS:
        config = recipe(path)
        teacher = "" if config.DISTILLER.TYPE == "NONE" else config.DISTILLER.TEACHER
        known.add((config.DATASET.TYPE, teacher, config.DISTILLER.STUDENT, method_name(config)))
    assert {(r.dataset, r.teacher, r.student, r.method) for r in published_results()} <= known


def _key(path: Path) -> tuple[str, ...]:
    config = recipe(path)
    return config.DATASET.TYPE, path.parts[-2], config.DISTILLER.TEACHER, config.DISTILLER.STUDENT


@pytest.mark.filterwarnings("ignore::mdistiller_ext.errors.ConfigWarning")
@pytest.mark.parametrize("source", ["mdistiller", "GDKD", "DeepKD"])
def test_configs_say_what_upstream_s_files_say(source: str, tmp_path: Path) -> None:
    """Every setting of the recipes in which the file of the same method and pair differs is one of the known exceptions."""
    ours = {_key(path): recipe(path) for path in CONFIGS}
    differing = set()
    with open(GOLDEN / "recipes.csv", encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["source"] == source and (row["distiller"], row["trainer"]) in FOLDERS
        ]
    for row in rows:
        settings = json.loads(row["settings_json"])
        method = "DKD" if settings.get("SOLVER.DEEPKD.DKD") else row["distiller"]
        config = ours[row["dataset"], FOLDERS[method, row["trainer"]], row["teacher"], row["student"]]
        for name, value in settings.items():
            if name.split(".")[0] not in ("SOLVER", method) or name not in DEFAULTS:  # config/test_upstream.py tests the others
                continue
            node: Any = config
            for key in name.split("."):
                node = node[key]
            if node != value:
                differing.add((row["dataset"], method, name, row["file"].split("/")[-1]))
    explained = {
        # A true MobileNetV2 has no maps before an activation; that repository's network of the name has.
        ("imagenet", "REVIEWKD", "REVIEWKD.STU_PREACT", "reviewkd.yaml"),
        # dkd_ori.yaml is DKD with ALPHA 0.5; configs/imagenet/dist/ follows DIST's own repository, not GDKD's.
        *((data, "DKD", "DKD.ALPHA", "dkd_ori.yaml") for data in ("cub2011", "imagenet", "tiny-imagenet")),
        *(("imagenet", "DIST", f"SOLVER.{name}", "dist.yaml") for name in ("BATCH_SIZE", "LR")),
        # Of CIFAR's, those that have a number in DIST's README do so too.
        *(("cifar100", "DIST", "SOLVER.LR_DECAY_STAGES", f"{pair}.yaml") for pair in _DIST_PAIRS),
    }
    if source == "GDKD":  # whose files for MLKD have DKD's schedule; ours is that of the published numbers
        explained |= {entry for entry in differing if entry[1:3] in (("MLKD", "SOLVER.EPOCHS"), ("MLKD", "SOLVER.LR"))}
    # DeepKD's release does not read KD_WEIGHT with its trainer; KD.RULE official says so.
    unread = {entry for entry in differing if source == "DeepKD" and entry[2] == "KD.LOSS.KD_WEIGHT"}
    assert differing - unread <= explained


def test_published_numbers_are_whole() -> None:
    results = published_results()
    assert len(results) == 342
    for result in results:
        assert 40 < float(result.top1) < 90 or result.top1 == "11.32"  # RKD, which collapsed with AdamW
        assert result.std == "" or 0 < float(result.std) < 2
        assert result.runs in ("3", "4", "5", NOT_STATED)
        assert result.rule in ("best", "last", "median", NOT_STATED)
        assert result.source
        for name in filter(None, (result.teacher, result.student)):
            check_model_name(name, result.dataset)
    keys = [(r.dataset, r.teacher, r.student, r.method, r.source) for r in results]
    assert len(set(keys)) == len(keys)
    numbers = [(r.dataset, r.teacher, r.student, r.method, float(r.top1)) for r in results]
    assert len(set(numbers)) == len(numbers)  # one source suffices for a number


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("cifar100/kd/res32x4_res8x4.yaml", "KD"),
        ("cifar100/lskd/res32x4_res8x4.yaml", "KD+LS"),
        ("cifar100/lskd_dkd/res32x4_res8x4.yaml", "DKD+LS"),
        ("cifar100/dot_dkd/res32x4_res8x4.yaml", "DKD+DOT"),
        ("cifar100/deepkd_kd/res32x4_res8x4.yaml", "KD+DeepKD"),
        ("cifar100/deepkd/res32x4_res8x4.yaml", "DeepKD"),
        ("cifar100/none/resnet8x4.yaml", "NONE"),
    ],
)
def test_method_names_are_those_of_the_tables(file: str, label: str) -> None:
    assert method_name(load_config(ROOT / "configs" / file)) == label


def test_a_run_is_held_against_its_recipe() -> None:
    path = ROOT / "configs" / "cifar100" / "dkd" / "wrn40_2_wrn_16_2.yaml"
    same = load_config(path, ["EXPERIMENT.SEED", 3, "DATASET.ROOT", "/elsewhere", "SOLVER.CHECKPOINT_STEPS", 9])
    assert [result.top1 for result in published_for(same)] == ["76.23"]
    assert recipe_differences(same) == []
    other = load_config(path, ["SOLVER.EPOCHS", 3, "DKD.BETA", 8.0, "DATASET.LIMIT", 100])
    assert sorted(recipe_differences(other) or []) == [
        "DATASET.LIMIT: 0 -> 100",
        "DKD.BETA: 6.0 -> 8.0",
        "SOLVER.EPOCHS: 240 -> 3",
    ]
    none = load_config(None, ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "vgg19"])
    assert published_for(none) == []
    assert recipe_differences(none) is None


def test_every_method_is_offered_for_cifar() -> None:
    methods = {recipe(path).DISTILLER.TYPE for path in CONFIGS if path.parts[-3] == "cifar100"}
    assert methods == {name for name in DISTILLERS if not DISTILLERS.get(name).__module__.startswith("plugin")}
