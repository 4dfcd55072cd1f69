"""The programs on every kind of data from end to end: archives' layouts, ImageNet's weights, upstream's yaml files."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import multiprocessing
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdistiller_ext import checkpoint
from mdistiller_ext.data import worker_pool
from mdistiller_ext.models import ZOO_NUM_CLASSES, create_model, list_models
from mdistiller_ext.registry import DATASETS, DISTILLERS, TRAINERS
from mdistiller_ext.trainers import BaseTrainer
from tests.support.cifar100 import Archive
from tests.support.images import make_cub200, write_classes, write_image
from tests.support.programs import ROOT, Finished, run_program, spawn_program
from tests.support.runs import FILES, SMALL, assert_notes, assert_one_line_error, assert_same_run, stop_after
from tests.support.server import names_in

pytestmark = pytest.mark.filterwarnings("always::mdistiller_ext.errors.ConfigWarning")  # as for users: a note on stderr


def weights_file(path: Path, name: str, **options: Any) -> Path:
    """A checkpoint of an untrained network, in upstream's form."""
    torch.save({"model": create_model(name, **options).state_dict()}, path)
    return path


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.load(path)["model"]
    return state


def top1(out: str) -> str:
    """The accuracy of the student that a run calls the best, or of eval.py's network."""
    found = re.search(r"top-1 (\S+) %", out) or re.search(r"(\S+) %  best, epoch", out)
    assert found, out
    return found[1]


def as_advised(finished: Finished) -> list[str]:
    """The settings that a run without a teacher prints for those who want to use its network as one."""
    return shlex.split(finished.out.split("use it as a teacher:")[1].splitlines()[0])


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs run in a folder of their own, so that what they fetch is not left in the repository."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("train.py", "eval.py", "configs"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.setattr("tests.support.programs.ROOT", folder)
    return folder


# ---- Tiny-ImageNet ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET.ROOT with Tiny-ImageNet as it unpacks, an image of each class and split."""
    root = tmp_path_factory.mktemp("tiny_imagenet")
    folder = root / "tiny-imagenet-200"
    wnids = [f"n{i:08}" for i in range(200)]
    for i, wnid in enumerate(wnids):
        write_image(folder / f"train/{wnid}/images/{wnid}_0.JPEG", size=(64, 64))
        write_image(folder / f"val/images/val_{199 - i}.JPEG", size=(64, 64))
    (folder / "wnids.txt").write_text("\n".join(reversed(wnids)))
    (folder / "val/val_annotations.txt").write_text(
        "".join(f"val_{199 - i}.JPEG\t{wnid}\t0\t0\t62\t62\n" for i, wnid in enumerate(wnids))
    )
    return root


def test_tiny_imagenet_from_a_teachers_recipe_to_the_pair_upstream_cannot_run(tiny_imagenet: Path, tmp_path: Path) -> None:
    settings = [*SMALL, "DATASET.ROOT", tiny_imagenet]
    recipe = "configs/tiny_imagenet/teachers/ResNet18.yaml"
    teacher = run_program("train.py", "--cfg", recipe, *settings, "LOG.PREFIX", tmp_path / "teacher")
    assert teacher.status == 0
    assert teacher.err == (
        f"note: decoded images are kept in {tiny_imagenet}/tiny-imagenet-200 (*.cache), for a quick start; "
        "DATASET.CACHE False does without\n"
    )

    student = ["--cfg", "configs/tiny_imagenet/dot/res18_shuv2.yaml", *settings, *as_advised(teacher)]
    distilled = run_program("train.py", *student, "LOG.PREFIX", tmp_path / "student")
    assert (distilled.status, distilled.err) == (0, "")
    assert "KD with trainer 'dot' on tiny_imagenet" in distilled.out
    assert "published: 65.75 % (mdistiller README" in distilled.out
    assert re.search(rf"teacher ResNet18 +{top1(teacher.out)} %", distilled.out)

    for folder, finished in ((tmp_path / "teacher/p/run", teacher), (tmp_path / "student/p/run", distilled)):
        evaluated = run_program("eval.py", "-c", folder)
        assert (evaluated.status, evaluated.err) == (0, "")
        assert top1(evaluated.out) == top1(finished.out)


def test_tiny_imagenets_validation_images_are_of_many_classes(tiny_imagenet: Path, tmp_path: Path) -> None:
    """Of a network that always says class 0: where the images are read as a folder of classes, it is always right."""
    file = tmp_path / "resnet18.pth"
    state = create_model("ResNet18", dataset="tiny_imagenet").state_dict()
    classifier = next(name for name, value in reversed(state.items()) if value.shape == (200,))
    state[classifier][0] = 1e6
    torch.save({"model": state}, file)
    asked = [
        "-m",
        "ResNet18",
        "-c",
        file,
        "-d",
        "tiny_imagenet",
        "DATASET.ROOT",
        tiny_imagenet,
        "DATASET.LIMIT",
        8,
        "DATASET.CACHE",
        False,
    ]
    evaluated = run_program("eval.py", *asked)
    assert (evaluated.status, evaluated.err) == (0, "")
    assert "the 8 test images of tiny_imagenet" in evaluated.out
    assert top1(evaluated.out) == "12.50"


def test_a_missing_teacher_of_tiny_imagenet_is_answered_with_its_recipe(tiny_imagenet: Path, tmp_path: Path) -> None:
    absent = ["DISTILLER.TEACHER_CKPT", tmp_path / "absent", "DATASET.ROOT", tiny_imagenet, "LOG.PREFIX", tmp_path]
    refused = run_program("train.py", "--cfg", "configs/tiny_imagenet/dot/res18_shuv2.yaml", *absent)
    recipe = "train.py --cfg configs/tiny_imagenet/teachers/ResNet18.yaml"
    assert_one_line_error(refused, "no checkpoint of teacher 'ResNet18'", str(tmp_path / "absent"), recipe, "TEACHER_CKPT")
    assert list(tmp_path.iterdir()) == []


# ---- ImageNet -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET.ROOT with 3 of ImageNet's classes."""
    root = tmp_path_factory.mktemp("imagenet")
    wnids = ["n01440764", "n01443537", "n02102040"]
    write_classes(root / "imagenet/train", dict.fromkeys(wnids, 4), suffix=".JPEG")
    write_classes(root / "imagenet/val", dict.fromkeys(wnids, 2), suffix=".JPEG")
    return root


def test_a_part_of_imagenet_keeps_a_teacher_of_all_of_it(imagenet: Path, tmp_path: Path) -> None:
    teacher = weights_file(tmp_path / "resnet34.pth", "ResNet34", dataset="imagenet")
    settings = ["--cfg", "configs/imagenet/kd/res34_res18.yaml", *FILES, "DATASET.ROOT", imagenet, "LOG.PREFIX", tmp_path]
    settings += ["DISTILLER.TEACHER_CKPT", teacher]
    note = f"'imagenet' in {imagenet} has 3 of 1000 classes"
    finished = run_program("train.py", *settings)
    assert finished.status == 0, finished.err
    assert_notes(finished.err, note, "DATASET.NUM_CLASSES 3")
    assert weights(tmp_path / "p/run/student_best")["fc.weight"].shape == (1000, 512)
    evaluated = run_program("eval.py", "-c", tmp_path / "p/run")
    assert_notes(evaluated.err, note)
    assert top1(evaluated.out) == top1(finished.out)

    refused = run_program("train.py", *settings, "DATASET.NUM_CLASSES", 3)
    assert_one_line_error(refused, str(teacher), "weights for 1000 classes, and 3 are needed")


@pytest.mark.filterwarnings("always::mdistiller_ext.errors.Note")
def test_the_notes_of_a_run_are_kept_in_its_folder(tmp_path: Path) -> None:
    """Those of the settings and the data, which come before there is a folder, and of images that were skipped later."""
    write_classes(tmp_path / "imagenet/train", dict.fromkeys("ab", 2))
    write_classes(tmp_path / "imagenet/val", dict.fromkeys("ab", 2))
    (tmp_path / "imagenet/val/b/001.jpg").write_bytes(b"no image")
    settings = [*FILES, "DATASET.TYPE", "imagenet", "DATASET.ROOT", tmp_path, "LOG.PREFIX", tmp_path, "DKD.ALPHA", 2]
    settings += ["DATASET.ON_ERROR", "skip", "DISTILLER.TYPE", "NONE", "DISTILLER.STUDENT", "ResNet18"]
    lines: list[str] = []
    for start in ([], ["--resume"]):
        finished = run_program("train.py", *settings, *start)
        assert finished.status == 0, finished.err
        lines += [line.removeprefix("note: ") for line in finished.err.splitlines()]
        kept = (tmp_path / "p/run/notes.txt").read_text().splitlines()
        assert [line.partition(" ")[2] for line in kept] == lines
    for part in ("without effect in this run: DKD.ALPHA", "2 of 1000 classes", "skipped: "):
        assert part in "\n".join(lines)
    assert all(datetime.datetime.fromisoformat(line.partition(" ")[0]).tzinfo for line in kept)


def test_networks_are_given_the_classes_that_are_there(imagenet: Path, tmp_path: Path) -> None:
    settings = ["--cfg", "configs/imagenet/none/MobileNetV1.yaml", *FILES, "DATASET.ROOT", imagenet, "LOG.PREFIX", tmp_path]
    finished = run_program("train.py", *settings, "DATASET.NUM_CLASSES", 3)
    assert (finished.status, finished.err) == (0, "")
    assert weights(tmp_path / "p/run/student_best")["fc.weight"].shape == (3, 1024)
    evaluated = run_program("eval.py", "-c", tmp_path / "p/run")
    assert (evaluated.status, evaluated.err) == (0, "")
    refused = run_program("train.py", *settings, "DATASET.NUM_CLASSES", 4)
    assert_one_line_error(refused, "has 3 classes, not 4")


def test_flat_validation_images_are_refused_in_one_line(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"n01": 1, "n02": 1}, suffix=".JPEG")
    write_image(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    settings = ["DATASET.ROOT", tmp_path, "LOG.PREFIX", tmp_path / "output"]
    refused = run_program("train.py", "--cfg", "configs/imagenet/none/ResNet18.yaml", *settings)
    assert_one_line_error(refused, f"{tmp_path / 'val'} holds 1 images and no class folders", "valprep.sh")
    assert not (tmp_path / "output").exists()


def test_a_resumed_run_on_image_files_is_the_run_never_stopped(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the images: resumed as it was, with a dataloader worker, and after one was killed."""
    network = "torchvision/shufflenet_v2_x0_5"
    teacher = weights_file(tmp_path / "teacher.pth", network, num_classes=3)
    settings = [*FILES, "DATASET.TYPE", "imagenet", "DATASET.ROOT", imagenet, "LOG.PREFIX", tmp_path, "SOLVER.EPOCHS", 2]
    settings += ["DATASET.NUM_CLASSES", 3, "DATASET.LIMIT", 8, "DATASET.STRONG", "[randaugment, erasing]"]
    settings += ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", network, "DISTILLER.TEACHER_CKPT", teacher]
    settings += ["DISTILLER.STUDENT", network, "SOLVER.TRAINER", "dot"]
    assert run_program("train.py", *settings).status == 0
    folder = tmp_path / "p" / "run"
    never_stopped = folder.rename(tmp_path / "never_stopped")
    # Spawned, as torch takes 5 s to let go of workers whose loader is part of a reference cycle, such as a trainer's.
    for program, workers, worker_killed in ((run_program, 0, False), (spawn_program, 1, False), (run_program, 0, True)):
        with monkeypatch.context() as patch:
            if worker_killed:
                kill_workers_after(patch, steps=4)  # the evaluation of epoch 2 notices
                stopped = run_program("train.py", *settings, "DATASET.NUM_WORKERS", 1)
                assert_one_line_error(stopped, "a dataloader worker died (pid ", "SIGKILL", "DATASET.NUM_WORKERS")
            else:
                stop_after(patch, steps=3)  # an epoch has two
                assert run_program("train.py", *settings).status == 130
        state = checkpoint.load(folder / "latest")
        assert (state["epoch"], state["step"] > 0) == (1, worker_killed)
        resumed = program("train.py", "--resume", *settings, "DATASET.NUM_WORKERS", workers)
        assert (resumed.status, resumed.err) == (0, "")
        assert_same_run(folder, never_stopped)
        folder.rename(tmp_path / f"resumed with {workers}, {worker_killed}")


def kill_workers_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Kill all dataloader workers in the last of so many steps of the process."""
    step, taken = BaseTrainer.train_step, itertools.count(1)

    def train_step(self: BaseTrainer, *batch: Tensor) -> Any:
        if next(taken) == steps:
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
        return step(self, *batch)

    monkeypatch.setattr(BaseTrainer, "train_step", train_step)
    monkeypatch.setattr(worker_pool, "_POLL", 0.2)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # another test's DataLoader may have installed torch's


# ---- photographs in folders, students from ImageNet's weights -----------------------------------------------------


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET.ROOT with 2 of the birds of CUB-200-2011, as it unpacks."""
    root = tmp_path_factory.mktemp("birds")
    make_cub200(root / "CUB_200_2011")
    return root


@pytest.fixture(scope="module")
def imagenet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision has them for a MobileNetV2: its name ends in the first digits of its checksum."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(create_model("MobileNetV2", dataset="imagenet").state_dict(), path)
    return path.rename(path.with_name(f"mobilenet_v2-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"))


def still(dataset: str, root: Path, prefix: Path) -> list[Any]:
    """Settings of a run that moves no weight, so that what it started from can be seen at its end: its rate is 0 in float32."""
    settings = ["--cfg", f"configs/{dataset}/none/ResNet18.yaml", "DISTILLER.STUDENT", "MobileNetV2", *FILES]
    return [*settings, "SOLVER.LR", 1e-300, "DATASET.ROOT", root, "LOG.PREFIX", prefix]


CLASSIFIER = {"classifier.1.weight", "classifier.1.bias"}


def changed_weights(student: dict[str, Tensor], file: Path) -> set[str]:
    """Weights of convolutions and classifier that are not those in a file of torchvision's."""
    start = torch.load(file, weights_only=True)
    assert start.keys() == student.keys()
    return {name for name, value in start.items() if (value.ndim > 1 or name in CLASSIFIER) and not value.equal(student[name])}


def test_a_student_starts_from_weights_for_other_classes(birds: Path, imagenet_weights: Path, tmp_path: Path) -> None:
    finished = run_program("train.py", *still("cub2011", birds, tmp_path), "DISTILLER.STUDENT_CKPT", imagenet_weights)
    assert finished.status == 0, finished.err
    assert_notes(finished.err, "has 2 of 200 classes")
    student = weights(tmp_path / "p/run/student_latest")
    assert changed_weights(student, imagenet_weights) == CLASSIFIER
    assert student["classifier.1.weight"].shape == (200, 1280)


def test_a_student_starts_from_chance_where_that_is_asked_for(birds: Path, imagenet_weights: Path, tmp_path: Path) -> None:
    settings = [*still("cub2011", birds, tmp_path), "DATASET.NUM_CLASSES", 2, "DISTILLER.STUDENT_CKPT", "random"]
    finished = run_program("train.py", *settings)
    assert (finished.status, finished.err) == (0, "")
    student = weights(tmp_path / "p/run/student_latest")
    assert len(changed_weights(student, imagenet_weights)) == 54
    assert student["classifier.1.weight"].shape == (2, 1280)
    evaluated = run_program("eval.py", "-c", tmp_path / "p/run")
    assert (evaluated.status, evaluated.err) == (0, "")
    assert top1(evaluated.out) == top1(finished.out)


@pytest.mark.parametrize("dataset", ["cub2011", "folder"])
def test_imagenets_weights_are_fetched_once(
    birds: Path, imagenet_weights: Path, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    """What a student starts from unless told otherwise: by the data set, or by the recipe."""
    served = tmp_path / imagenet_weights.name
    served.write_bytes(imagenet_weights.read_bytes())
    monkeypatch.setattr("mdistiller_ext.weight_files.pretrained_url", lambda *asked: served.as_uri())
    for _ in range(2):
        finished = run_program("train.py", *still(dataset, birds, tmp_path))
        assert finished.status == 0, finished.err
        assert changed_weights(weights(tmp_path / "p/run/student_latest"), imagenet_weights) == CLASSIFIER
        served.unlink(missing_ok=True)
    assert names_in(elsewhere / "download_ckpts/imagenet_teachers") == [served.name]


def test_without_a_network_the_message_says_what_to_do(
    birds: Path, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    url = "http://127.0.0.1:9/mobilenet_v2-00000000.pth"
    monkeypatch.setattr("mdistiller_ext.weight_files.pretrained_url", lambda *asked: url)
    refused = run_program("train.py", *still("cub2011", birds, tmp_path))
    place = elsewhere / "download_ckpts/imagenet_teachers/mobilenet_v2-00000000.pth"
    assert_one_line_error(refused, "ImageNet weights of MobileNetV2", "STUDENT_CKPT", f"curl -C - -L -o {place} {url}")
    assert not (tmp_path / "p").exists()


def test_a_teacher_trained_on_ones_own_images_fits(birds: Path, tmp_path: Path) -> None:
    settings = [*FILES, "DATASET.ROOT", birds, "DISTILLER.STUDENT", "MobileNetV2", "DISTILLER.STUDENT_CKPT", "random"]
    recipe = ["--cfg", "configs/folder/teachers/ResNet34.yaml"]
    teacher = run_program("train.py", *recipe, *settings, "LOG.PREFIX", tmp_path / "teacher")
    assert (teacher.status, teacher.err) == (0, "")
    settings += as_advised(teacher)
    recipe = ["--cfg", "configs/folder/kd/res34_res18.yaml"]
    student = run_program("train.py", *recipe, *settings, "LOG.PREFIX", tmp_path / "student")
    assert (student.status, student.err) == (0, "")
    assert weights(tmp_path / "student/p/run/student_best")["classifier.1.weight"].shape == (2, 1280)


# ---- upstream's files, published numbers --------------------------------------------------------------------------

UPSTREAM = """\
EXPERIMENT:
  NAME: ""
  TAG: "dot,res32x4,res8x4"
  PROJECT: "cifar100_baselines"
DISTILLER:
  TYPE: "KD"
  TEACHER: "resnet32x4"
  STUDENT: "resnet8x4"
SOLVER:
  BATCH_SIZE: 64
  EPOCHS: 240
  LR: 0.05
  LR_DECAY_STAGES: [150, 180, 210]
  LR_DECAY_RATE: 0.1
  WEIGHT_DECAY: 0.0005
  MOMENTUM: 0.9
  TYPE: "SGD"
  TRAINER: "dot"
  DOT:
    DELTA: 0.075
LOG:
  TENSORBOARD_FREQ: 500
  SAVE_CHECKPOINT_FREQ: 40
"""


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DATASET.ROOT with a small CIFAR-100, which is taken for the real one."""
    monkeypatch.setattr("mdistiller_ext.data.cifar100.FILES", Archive(tmp_path / "data").md5)
    return tmp_path / "data"


def test_upstreams_file_trains_and_is_held_against_what_was_published(cifar100: Path, tmp_path: Path) -> None:
    file = tmp_path / "res32x4_res8x4.yaml"
    file.write_text(UPSTREAM)
    teacher = weights_file(tmp_path / "ckpt_epoch_240.pth", "resnet32x4")
    settings = ["DATASET.LIMIT", 4, "SOLVER.EPOCHS", 1, "DATASET.ROOT", cifar100, "LOG.PREFIX", tmp_path]
    settings += ["EXPERIMENT.NAME", "run", "DISTILLER.TEACHER_CKPT", teacher, "SOLVER.DEVICE", "cpu"]
    finished = run_program("train.py", "--cfg", file, *settings)
    assert finished.status == 0, finished.err
    assert_notes(finished.err, f"{file}: LOG.TENSORBOARD_FREQ means nothing here")
    assert "KD with trainer 'dot' on cifar100" in finished.out
    assert "published: 75.12 % (mdistiller README; number of runs not stated, epoch not stated)\n" in finished.out
    assert "with another recipe than this run: DATASET.LIMIT: 0 -> 4; SOLVER.EPOCHS: 240 -> 1\n" in finished.out

    evaluated = run_program("eval.py", "-c", tmp_path / "cifar100_baselines/run")
    assert (evaluated.status, evaluated.err) == (0, "")
    assert "resnet8x4 (1,233,540 parameters)" in evaluated.out
    assert "the 4 test images of cifar100" in evaluated.out
    assert top1(evaluated.out) == top1(finished.out)


def test_upstreams_file_on_other_data(glyphs_root: Path, tmp_path: Path) -> None:
    file, settings = tmp_path / "upstream.yaml", ["DATASET.TYPE", "glyphs", "DATASET.ROOT", glyphs_root, "LOG.PREFIX", tmp_path]
    file.write_text(UPSTREAM.replace("resnet32x4", "resnet8").replace("resnet8x4", "resnet8"))
    settings += ["DISTILLER.TEACHER_CKPT", weights_file(tmp_path / "resnet8.pth", "resnet8"), *SMALL]
    finished = run_program("train.py", "--cfg", file, *settings)
    assert finished.status == 0, finished.err
    assert_notes(finished.err, "LOG.TENSORBOARD_FREQ")
    assert "published" not in finished.out


def test_the_list_names_everything_and_needs_no_data(elsewhere: Path) -> None:
    listed = run_program("train.py", "--list")
    assert (listed.status, listed.err) == (0, "")
    words = set(listed.out.split())
    for known in (DISTILLERS, TRAINERS, DATASETS, *(list_models(zoo) for zoo in ZOO_NUM_CLASSES)):
        assert set(known) <= words
    assert {"torchvision/<name>", "timm/<name>"} <= words
    for folder in (ROOT / "configs").glob("*/*/"):
        line = re.search(rf"^  {folder}/: (.*)$", listed.out, re.MULTILINE)  # absolute, as seen from elsewhere
        assert line, folder
        assert line[1].split() == sorted(file.name for file in folder.glob("*.yaml"))
    assert {path.name for path in elsewhere.iterdir()} == {"train.py", "eval.py", "configs"}


# ---- networks of other libraries ----------------------------------------------------------------------------------


def test_networks_of_torchvision_and_timm_teach_and_learn(
    glyphs_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = "torchvision/shufflenet_v2_x0_5", "timm/test_resnet.r160_in1k"
    settings = [*SMALL, "DATASET.TYPE", "glyphs", "DATASET.ROOT", glyphs_root, "DATASET.LIMIT", 8]
    alone = [*settings, "DISTILLER.TYPE", "NONE", "DISTILLER.STUDENT", theirs, "LOG.PREFIX", tmp_path / "teacher"]
    teacher = run_program("train.py", *alone)
    assert (teacher.status, teacher.err) == (0, "")

    arguments = [*settings, "DISTILLER.TYPE", "DKD", "DISTILLER.STUDENT", ours, *as_advised(teacher)]
    arguments += ["SOLVER.TRAINER", "deepkd", "LOG.PREFIX", tmp_path / "student", "SOLVER.EPOCHS", 2]
    with monkeypatch.context() as patch:
        stop_after(patch, steps=3)  # an epoch has two
        assert run_program("train.py", *arguments).status == 130
    folder = tmp_path / "student/p/run"
    assert checkpoint.load(folder / "latest")["epoch"] == 1
    resumed = run_program("train.py", "--resume", "--cfg", folder / "config.yaml")
    assert (resumed.status, resumed.err) == (0, "")
    assert "epoch 2/2" in resumed.out
    assert "epoch 1/2" not in resumed.out

    for place, name, finished in ((tmp_path / "teacher/p/run", theirs, teacher), (folder, ours, resumed)):
        evaluated = run_program("eval.py", "-c", place)
        assert (evaluated.status, evaluated.err) == (0, "")
        assert evaluated.out.startswith(f"{name} (")
        assert top1(evaluated.out) == top1(finished.out)
    evaluated = run_program("eval.py", "-m", ours, "-c", folder / "latest", *settings[:2], *settings[-6:])
    assert evaluated.status == 0, evaluated.err
