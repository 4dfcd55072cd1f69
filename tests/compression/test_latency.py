"""Latency: who is timed when, and what is said of it. No duration is asserted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mdistiller_ext.compression.latency import Timing, round_times
from mdistiller_ext.errors import ConfigError
from mdistiller_ext.models import create_model

SIZE = 32


class Named(nn.Module):
    """A network that notes its calls, and the mode of autograd in them."""

    def __init__(self, name: str, calls: list[tuple[str, bool]]) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append((self.name, torch.is_inference_mode_enabled()))
        return images


def test_networks_take_turns_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdistiller_ext.compression.latency._SECONDS", 1e-12)  # one call is enough for a timing
    calls: list[tuple[str, bool]] = []
    times = round_times([Named("student", calls), Named("teacher", calls)], torch.zeros(2, 3, SIZE, SIZE), rounds=3)
    assert [len(of_network) for of_network in times] == [3, 3]
    assert [name[0] for name, _ in calls][-6:] == ["s", "t", "t", "s", "s", "t"]
    assert all(inference for _, inference in calls)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdistiller_ext.compression.latency._SECONDS", 1e-12)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fold", [False, True])
def test_median_and_quartiles_of_latency_and_speed(fold: bool) -> None:
    student, teacher = (create_model("resnet8", dataset="glyphs") for _ in range(2))
    timing = Timing(torch.device("cpu"), batch_sizes=(1, 4), rounds=5, fold=fold)
    gains = list(timing.gains("networks", student, teacher, SIZE))
    assert [(gain.quantity, gain.unit, gain.batch_size, gain.n) for gain in gains] == [
        (quantity, unit, batch, 5) for batch in (1, 4) for quantity, unit in (("latency", "ms"), ("throughput", "images/s"))
    ]
    for gain in gains:
        for low, middle, high in (
            (gain.teacher_q1, gain.teacher, gain.teacher_q3),
            (gain.student_q1, gain.student, gain.student_q3),
            (gain.ratio_q1, gain.ratio, gain.ratio_q3),
        ):
            assert low is not None
            assert middle is not None
            assert high is not None
            assert 0 < low <= middle <= high
        assert f"1 threads, torch {torch.__version__}, float32, channels-last" in gain.measured_on
        assert ("not folded" in gain.measured_on) == (not fold)
    latency, speed = gains[2:]
    assert speed.student == pytest.approx(4 / (latency.student / 1e3), rel=1e-3)  # the median of an odd number


@pytest.mark.usefixtures("quick")
def test_a_student_alone_is_timed_and_has_no_ratio() -> None:
    student = create_model("resnet8", dataset="glyphs")
    (latency, _) = Timing(torch.device("cpu"), (1,), rounds=1).gains("networks", student, None, SIZE)
    assert latency.student > 0
    assert (latency.teacher, latency.ratio) == (None, None)


def test_a_network_that_cannot_be_folded_is_refused() -> None:
    student = create_model("resnet8", dataset="glyphs")
    student.register_forward_hook(lambda module, args, output: None)
    with pytest.raises(ConfigError, match="--fold: batch norms of ResNet cannot be folded"):
        next(Timing(torch.device("cpu"), (1,), 1, fold=True).gains("networks", student, None, SIZE))
