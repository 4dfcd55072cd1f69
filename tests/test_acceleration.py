"""Every switch for speed computes what the plain path computes, and what a machine cannot do is reported and left off."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdistiller_ext import acceleration
from mdistiller_ext.acceleration import InferenceNetwork, choose_device, fold_batch_norm
from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.distillers import Distiller, Output, Progress, register_distiller
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.models import create_model
from mdistiller_ext.trainers import BaseTrainer
from tests.support.runs import tiny_run
from tests.support.trainers import STEPS, trainer_for


@pytest.mark.parametrize("name", ["meta", "xla", "hpu", "xpu"])
def test_a_device_that_cannot_compute_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"SOLVER.DEVICE {name} cannot be used") as caught:
        choose_device(name)
    assert len(str(caught.value)) < 300


PLAIN = ["SOLVER.CHANNELS_LAST", False]
UNFOLDED = ["SOLVER.FOLD_TEACHER", False]


def losses(trainer: BaseTrainer) -> Tensor:
    """The loss components of one epoch's steps, ``[steps, components]``."""
    trainer.distiller.train()
    trainer.train_loader.set_epoch(1)
    rows = []
    for images, labels in trainer.train_loader:
        _, components = trainer.train_step(images.to(next(trainer.distiller.student.parameters()).dtype), labels)
        rows.append(torch.stack(list(components.values())).double())
    return torch.stack(rows)


def largest_difference(a: Tensor, b: Tensor) -> float:
    return float(((a.sum(1) - b.sum(1)).abs() / b.sum(1)).max())


@pytest.fixture(scope="module")
def plain_losses(glyphs_root: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    trainer = trainer_for(tiny_run(glyphs_root, teacher_file, tmp_path_factory.mktemp("plain")), *PLAIN, *UNFOLDED)
    assert trainer.distiller.inference_network() is trainer.distiller.teacher
    return losses(trainer)


def test_channels_last_changes_no_loss(tiny: list[str], plain_losses: Tensor) -> None:
    trainer = trainer_for(tiny, *UNFOLDED)
    weight = trainer.distiller.student.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    found = losses(trainer)
    assert found.shape[0] == STEPS
    assert 0 < largest_difference(found, plain_losses) < 1e-5  # not the same code twice


def test_the_folded_teacher_changes_no_loss(tiny: list[str], plain_losses: Tensor) -> None:
    trainer = trainer_for(tiny, *PLAIN)
    called = trainer.distiller.inference_network()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in called.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in trainer.distiller.teacher.modules())
    assert 0 < largest_difference(losses(trainer), plain_losses) < 1e-5


def test_data_elsewhere_change_no_loss(tiny: list[str], plain_losses: Tensor) -> None:
    assert torch.equal(losses(trainer_for(tiny, *PLAIN, *UNFOLDED, "DATASET.DEVICE", "cpu")), plain_losses)


def test_compilation_changes_no_loss(tiny: list[str], plain_losses: Tensor) -> None:
    """Where torch finds a C++ compiler; elsewhere it is said and left off, which is tested below."""
    trainer = trainer_for(tiny, *PLAIN, "SOLVER.COMPILE", True)
    if trainer.distiller.inference_network()._compiled_call_impl is None:
        pytest.skip("torch finds no C++ compiler here")
    trainer.distiller.student.compile(dynamic=False)  # as on a GPU
    assert largest_difference(losses(trainer), plain_losses) < 1e-5
    assert not any(name.startswith("_orig_mod") for name in trainer.distiller.student.state_dict())


def test_in_float64_all_of_it_is_exact_at_a_recipes_rate(tiny: list[str]) -> None:
    """What float32 shows after 20 steps are grown roundings: in float64 the two layouts agree to 1e-9 at a rate of 0.05."""
    trainers = [trainer_for(tiny, "SOLVER.LR", 0.05, *UNFOLDED, *layout) for layout in ([], PLAIN)]
    found, expected = (losses(trainer) for trainer in trainers if trainer.distiller.double())
    assert 0 < largest_difference(found, expected) < 1e-9


# ---- bfloat16 -----------------------------------------------------------------------------------------------------


def test_bf16_is_near_float32_and_losses_and_weights_stay_float32(tiny: list[str], plain_losses: Tensor) -> None:
    trainer = trainer_for(tiny, "SOLVER.AMP", "bf16")
    if trainer.distiller.autocast is None:
        pytest.skip("this CPU computes no bfloat16")
    seen: list[torch.dtype] = []
    trainer.distiller.student.layer1[0].conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    found = losses(trainer)
    assert set(seen) == {torch.bfloat16}
    assert 1e-5 < largest_difference(found, plain_losses) < 0.02
    assert {p.dtype for p in trainer.distiller.student.parameters()} == {torch.float32}
    assert {p.dtype for p in trainer.distiller.inference_network().parameters()} == {torch.bfloat16}
    assert {p.dtype for p in trainer.distiller.teacher.parameters()} == {torch.float32}
    images, labels = next(iter(trainer.train_loader))
    output, components = trainer.distiller(images, labels, trainer.progress)
    assert output.logits.dtype == torch.float32
    assert {value.dtype for value in components.values()} <= {torch.float32, torch.float64}


def test_bf16_trains_and_is_evaluated_in_float32(tiny: list[str]) -> None:
    trainer = trainer_for(tiny, "SOLVER.AMP", "bf16", "DATASET.LIMIT", 32, "SOLVER.EPOCHS", 1)
    summary = trainer.train()
    images, _ = next(iter(trainer.test_loader))
    with torch.no_grad():
        logits, _ = trainer.distiller.student.eval()(images)
    assert logits.dtype == torch.float32
    assert 0 <= summary["last_top1"] <= 100


def test_a_machine_without_bfloat16_says_so_and_trains_in_float32(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acceleration, "has_bf16", lambda device: False)
    folder = Path(tiny[tiny.index("LOG.PREFIX") + 1]) / "run"
    config = load_config(None, [*tiny, "DISTILLER.TYPE", "KD", "SOLVER.AMP", "bf16"])
    trainer = build_trainer(config, folder)
    assert trainer.distiller.autocast is None
    assert trainer.distiller.inference_network().dtype is None
    assert "SOLVER.AMP bf16: this cpu computes no bfloat16; off" in capsys.readouterr().out


def test_bfloat16_is_detected_alike_without_the_query_of_newer_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    expected = acceleration.has_bf16(cpu)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert acceleration.has_bf16(cpu) == expected


def test_without_a_compiler_training_goes_on_and_says_so(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(function: Any) -> Any:
        raise RuntimeError("no C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", no_compiler)
    folder = Path(tiny[tiny.index("LOG.PREFIX") + 1]) / "run"
    trainer = build_trainer(load_config(None, [*tiny, "DISTILLER.TYPE", "KD", "SOLVER.COMPILE", "True"]), folder)
    assert trainer.distiller.inference_network()._compiled_call_impl is None
    assert "torch cannot compile here (no C++ compiler found); off" in capsys.readouterr().out


def test_an_unknown_precision_is_refused(tiny: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.AMP must be none or bf16, not 'fp16'"):
        trainer_for(tiny, "SOLVER.AMP", "fp16")


# ---- the teacher --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_1", "vgg8", "ResNet18", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_folding_keeps_every_output(name: str) -> None:
    model = create_model(name).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = fold_batch_norm(model, images)
    count = [sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) for network in (model, folded)]
    # What is left follows no convolution: a pre-activation block begins with it. VGG's slices of blocks cannot be traced.
    assert count[1] < count[0] or name == "vgg8"
    (logits, features), (expected, expected_features) = folded(images), model(images)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    for key in expected_features:
        torch.testing.assert_close(features[key], expected_features[key], rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_network_that_cannot_be_folded_is_kept() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
            x = self.bn(self.conv(x)).mean((2, 3))
            return (x if x.sum() > 0 else -x), {}

    images = torch.randn(2, 3, 8, 8)
    for model in (Branching(), create_model("torchvision/shufflenet_v2_x0_5", num_classes=4)):  # tracing loses its hook
        model.eval()
        assert fold_batch_norm(model, images) is model


def test_a_fold_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module) -> nn.Module:
        model = copy.deepcopy(model)
        model.fc.bias.data += 1
        return model

    monkeypatch.setattr(acceleration, "fuse", wrong)
    model = create_model("resnet8").eval()
    images = torch.randn(2, 3, 32, 32)
    assert fold_batch_norm(model, images) is model


def test_a_half_precision_teacher_gives_float32_logits() -> None:
    model = create_model("resnet8").eval()
    images = torch.randn(4, 3, 32, 32)
    logits, features = InferenceNetwork(model, images, torch.bfloat16)(images)
    assert logits.dtype == torch.float32
    assert features["pooled_feat"].dtype == torch.bfloat16
    torch.testing.assert_close(logits, model(images)[0], rtol=0.05, atol=0.05)


# ---- a method's hooks on the teacher --------------------------------------------------------------------------------


@pytest.fixture
def hooked(forget_plugins: None) -> None:
    """The method HOOKED: a closure and a bound method as hooks on the teacher, whose submodule ``fc`` it calls."""

    @register_distiller("HOOKED")
    class Hooked(Distiller):
        def __init__(self, student: nn.Module, teacher: nn.Module, *, stage: str = "layer3") -> None:
            teacher.fc.register_forward_pre_hook(self.keep)
            super().__init__(student, teacher)
            self.stages = stages = []
            teacher.get_submodule(stage).register_forward_hook(lambda module, inputs, output: stages.append(output))

        def keep(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
            self.pooled = inputs[0]

        def losses(self, student: Output, teacher: Output, labels: Tensor, progress: Progress) -> dict[str, Tensor]:
            stage = self.stages.pop()
            stage = stage[0] if isinstance(stage, tuple) else stage
            assert stage.dtype == torch.float32
            return {
                "task/ce": F.cross_entropy(student.logits, labels),
                "target/again": F.mse_loss(self.teacher.fc(self.pooled), teacher.logits),
                "kd/stage": stage.square().mean(),
            }


@pytest.fixture
def torchvision_teacher(tmp_path: Path) -> list[str]:
    """Settings of a small teacher of torchvision, which is built with a hook of its own."""
    name, file = "torchvision/shufflenet_v2_x0_5", tmp_path / "torchvision.pth"
    torch.save({"model": create_model(name, num_classes=100).state_dict()}, file)
    return ["DISTILLER.TEACHER", name, "DISTILLER.TEACHER_CKPT", str(file)]


@pytest.mark.usefixtures("hooked")
@pytest.mark.parametrize(("stage", "amp"), [("layer3", "none"), ("layer3", "bf16"), ("conv5", "none")])
def test_hooks_and_submodules_of_the_teacher_work_as_written(
    tiny: list[str],
    torchvision_teacher: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    amp: str,
) -> None:
    settings = [*tiny, *(torchvision_teacher if stage == "conv5" else [])]
    settings += ["DISTILLER.TYPE", "HOOKED", "HOOKED.STAGE", stage, "SOLVER.AMP", amp]
    trainer = build_trainer(load_config(None, settings), tmp_path / "run")
    said = capsys.readouterr().out
    assert f"the teacher runs unfolded, in float32 and not compiled: the method has forward hooks on its {stage}, fc" in said
    found = losses(trainer)
    assert found.shape[0] == 2
    assert float(found[:, 1].max()) < 1e-10  # the features of fc's input are those of the batch
    plain = build_trainer(load_config(None, [*settings, *UNFOLDED]))
    assert torch.equal(found, losses(plain))
    assert found[0, 2] != found[1, 2]


def test_the_copy_runs_unless_hooks_are_added_and_is_no_part_of_the_distiller(tiny: list[str]) -> None:
    trainer = trainer_for(tiny)
    distiller, calls = trainer.distiller, []
    copied = distiller.inference_network()
    assert isinstance(copied, InferenceNetwork)
    assert copied not in set(distiller.modules())
    assert {name.split(".")[0] for name in distiller.state_dict()} == {"student", "teacher"}
    assert sum(parameter.numel() for parameter in distiller.parameters()) == 2 * sum(
        parameter.numel() for parameter in distiller.student.parameters()
    )
    copied.register_forward_hook(lambda *_: calls.append("copy"))
    images, labels = next(iter(trainer.train_loader))
    distiller(images, labels, trainer.progress)
    handles = [
        distiller.teacher.layer2.register_forward_hook(lambda *_: calls.append("hook")),
        distiller.teacher.fc.register_forward_pre_hook(lambda *_: calls.append("pre-hook")),
    ]
    for handle in handles:
        distiller(images, labels, trainer.progress)
        handle.remove()
    distiller(images, labels, trainer.progress)
    assert calls == ["copy", "hook", "pre-hook", "pre-hook", "copy"]


def test_the_hook_that_a_network_is_built_with_is_not_the_methods(
    tiny: list[str], torchvision_teacher: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*tiny, *torchvision_teacher, "DISTILLER.TYPE", "KD", "SOLVER.COMPILE", True]
    trainer = build_trainer(load_config(None, settings), tmp_path / "run")
    assert isinstance(trainer.distiller.inference_network(), InferenceNetwork)
    assert "hooks" not in capsys.readouterr().out
