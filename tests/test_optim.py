"""ComponentSGD: equal to torch's SGD, to the original DOT and DeepKD optimizers, and to a slow clear reference."""

from __future__ import annotations

import copy
import io
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR

from mdistiller_ext.optim import ComponentSGD
from tests.support.programs import GOLDEN


def test_rates_on_the_device_are_the_schedules() -> None:
    """Both ways of reading the rate move the weights alike, and the copy is filled only when the rate changes."""
    torch.manual_seed(0)
    weights = [torch.randn(5), torch.randn(3, 2)]
    optimizers = []
    for on_device in (False, True):
        parameters = [nn.Parameter(weight.clone()) for weight in weights]
        optimizer = ComponentSGD(parameters, 0.1, {"task": 0.8, "kd": 0.9}, weight_decay=0.01)
        generator = torch.Generator().manual_seed(1)
        for step in range(6):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step // 2)
            if on_device:
                optimizer.device_lr()
            for stream in ("task", "kd"):
                for parameter in parameters:
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
                optimizer.absorb(stream)
            optimizer.step()
        optimizers.append(parameters)
    for a, b in zip(*optimizers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


CASES = json.loads((GOLDEN / "optim_a.json").read_text())

DOT = {"task": 0.825, "kd": 0.975}
DEEPKD = {"task": 0.975, "target": 0.825, "nontarget": 0.95}


class SlowReference:
    """The rule of DOT for any number of streams, one parameter at a time.

    ``reach`` holds, for each parameter, the streams that ever send it a gradient. Buffer: v <- m v + g, at first v = g;
    weight decay joins g of one stream, from the weights before the step; w <- w - lr * sum of v. A parameter that not every
    stream reaches uses the mean of the momenta in all of its streams.
    """

    def __init__(self, weights, reach, *, lr, momentum, weight_decay, decay_on):
        self.weights = [w.clone() for w in weights]
        self.momentum = [
            momentum if r == set(momentum) else dict.fromkeys(momentum, sum(momentum.values()) / len(momentum)) for r in reach
        ]
        self.buffers = [{} for _ in weights]
        self.lr, self.weight_decay, self.decay_on = lr, weight_decay, decay_on

    def step(self, gradients):
        """``gradients``: stream -> gradient (or None) of each parameter, in the order in which streams are absorbed."""
        for j, weight in enumerate(self.weights):
            own = {stream: g[j] for stream, g in gradients.items() if g[j] is not None}
            if not own:
                continue
            decayed = self.decay_on if self.decay_on in own else next(iter(own))
            own[decayed] = own[decayed] + self.weight_decay * weight
            for stream, gradient in own.items():
                buffer = self.buffers[j].get(stream)
                self.buffers[j][stream] = gradient if buffer is None else self.momentum[j][stream] * buffer + gradient
            self.weights[j] = weight - self.lr * sum(self.buffers[j][stream] for stream in own)


def make_parameters(seed=0, shapes=((3, 4), (5,), (2, 2, 2))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def copies(parameters):
    return [p.detach().clone().requires_grad_() for p in parameters]


def random_gradients(parameters, generator):
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


def set_gradients(parameters, gradients):
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = None if g is None else g.clone()


def component_step(optimizer, parameters, gradients):
    for stream, stream_gradients in gradients.items():
        set_gradients(parameters, stream_gradients)
        optimizer.absorb(stream)
    optimizer.step()


def close(actual, expected, tolerance=1e-12):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach(), e.detach(), rtol=tolerance, atol=tolerance)


# ---- the original optimizers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden_arrays():
    with np.load(GOLDEN / "optim_a.npz") as arrays:
        return dict(arrays)


# How the release runs: our stream -> its name in the file, in the order of its backward passes.
GOLDEN_STREAMS = {
    "dot": {"kd": "kd", "task": "task"},
    "deepkd_official": {"nontarget": "ncg", "target": "tcg", "task": "task"},
}


def golden_optimizer(case, parameters):
    low, high = case["momentum"] - case["delta"], case["momentum"] + case["delta"]
    if case["kind"] == "dot":
        momentum, decay_on = {"task": low, "kd": high}, "task"
    else:  # the release's task stream runs at the target stream's momentum, which also takes the decay
        momentum, decay_on = {"task": low, "target": low, "nontarget": high}, "target"
    late = case["kind"] == "deepkd_official"  # computed from weights that the other streams have already updated
    return ComponentSGD(parameters, case["lr"], momentum, case["weight_decay"], decay_on=decay_on, decay_moved=late)


def golden_id(case):
    return f"{case['kind']}-delta={case['delta']}-weight_decay={case['weight_decay']}"


def test_there_are_golden_runs_of_both_optimizers_with_and_without_delta_and_decay():
    assert {(c["kind"], c["delta"] > 0, c["weight_decay"] > 0) for c in CASES} == {
        (kind, delta, decay) for kind in GOLDEN_STREAMS for delta in (False, True) for decay in (False, True)
    }


@pytest.mark.parametrize("case", CASES, ids=golden_id)
def test_trajectories_equal_the_original_optimizers(case, golden_arrays):
    number, count = case["case"], 2
    parameters = [torch.tensor(golden_arrays[f"{number}/p{j}"], requires_grad=True) for j in range(count)]
    optimizer = golden_optimizer(case, parameters)
    for step, lr in enumerate(case["lrs"]):
        optimizer.param_groups[0]["lr"] = lr
        gradients = {
            ours: [torch.tensor(golden_arrays[f"{number}/g/{theirs}/{step}/{j}"]) for j in range(count)]
            for ours, theirs in GOLDEN_STREAMS[case["kind"]].items()
        }
        component_step(optimizer, parameters, gradients)
        for j, p in enumerate(parameters):
            expected = torch.tensor(golden_arrays[f"{number}/trajectory{j}"][step])
            assert (p - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("kd_first", [True, False])
def test_two_steps_of_dot_by_hand(kd_first):
    theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = ComponentSGD([theta], 0.1, DOT, 0.5, decay_on="task")
    one, zero = torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    gradients = {"kd": [one], "task": [zero]} if kd_first else {"task": [zero], "kd": [one]}
    for task, kd, weight in ((0.5, 1.0, 0.85), (0.8375, 1.975, 0.56875)):
        component_step(optimizer, [theta], gradients)
        buffers = optimizer.state[theta]["momentum_buffers"]
        assert buffers["task"].item() == pytest.approx(task, rel=1e-12)
        assert buffers["kd"].item() == pytest.approx(kd, rel=1e-12)
        assert theta.item() == pytest.approx(weight, rel=1e-12)


# ---- torch.optim.SGD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absorbed", [True, False], ids=["absorbed", "step alone"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_stream_is_torchs_sgd(momentum, weight_decay, absorbed):
    generator = torch.Generator().manual_seed(1)
    ours, theirs = make_parameters(), make_parameters()
    optimizer = ComponentSGD(ours, 0.1, {"all": momentum}, weight_decay)
    sgd = torch.optim.SGD(theirs, 0.1, momentum, weight_decay=weight_decay)
    for step in range(12):
        gradients = random_gradients(ours, generator)
        if step in (0, 5, 6):
            gradients[1] = None  # such a parameter neither moves nor decays in this step
        set_gradients(ours, gradients)
        set_gradients(theirs, gradients)
        if absorbed:
            optimizer.absorb("all")
        optimizer.step()
        sgd.step()
        close(ours, theirs)


@pytest.mark.parametrize("streams", [{"all": 0.9}, {"task": 0.9, "kd": 0.9}], ids=len)
def test_nesterov_is_that_of_torchs_sgd(streams):
    """Streams of equal momentum add up to one, with Nesterov's momentum too."""
    generator = torch.Generator().manual_seed(1)
    ours, theirs = make_parameters(), make_parameters()
    optimizer = ComponentSGD(ours, 0.1, streams, 0.05, nesterov=True)
    sgd = torch.optim.SGD(theirs, 0.1, 0.9, weight_decay=0.05, nesterov=True)
    for _ in range(8):
        gradients = {stream: random_gradients(ours, generator) for stream in streams}
        kept = [g.clone() for g in gradients[next(iter(streams))]]
        set_gradients(theirs, [sum(several) for several in zip(*gradients.values(), strict=True)])
        component_step(optimizer, ours, gradients)
        sgd.step()
        close(ours, theirs)
        close(gradients[next(iter(streams))], kept)  # the caller's gradients are not changed


def test_parameter_groups_have_their_own_lr_and_weight_decay_as_in_torchs_sgd():
    generator = torch.Generator().manual_seed(1)
    ours, theirs = make_parameters(), make_parameters()

    def groups(p):
        return [{"params": p[:1], "lr": 0.3}, {"params": p[1:2], "weight_decay": 0.0}, {"params": p[2:], "weight_decay": 0.4}]

    optimizer = ComponentSGD(groups(ours), 0.1, {"all": 0.9}, 0.05)
    sgd = torch.optim.SGD(groups(theirs), 0.1, 0.9, weight_decay=0.05)
    for _ in range(8):
        gradients = random_gradients(ours, generator)
        set_gradients(theirs, gradients)
        component_step(optimizer, ours, {"all": gradients})
        sgd.step()
        close(ours, theirs)


def test_a_group_may_have_its_own_momenta():
    generator = torch.Generator().manual_seed(1)
    ours, theirs = make_parameters(), make_parameters()
    fast = {"task": 0.5, "kd": 0.5}
    optimizer = ComponentSGD([{"params": ours[:1], "momentum": fast}, {"params": ours[1:]}], 0.1, {"task": 0.9, "kd": 0.9})
    sgd = torch.optim.SGD([{"params": theirs[:1], "momentum": 0.5}, {"params": theirs[1:]}], 0.1, 0.9)
    for _ in range(8):
        task, kd = random_gradients(ours, generator), random_gradients(ours, generator)
        set_gradients(theirs, [a + b for a, b in zip(task, kd, strict=True)])
        component_step(optimizer, ours, {"kd": kd, "task": task})
        sgd.step()
        close(ours, theirs)


@pytest.mark.parametrize("streams", [2, 3])
def test_streams_of_equal_momentum_are_torchs_sgd_on_the_sum(streams):
    generator = torch.Generator().manual_seed(1)
    ours, theirs = make_parameters(), make_parameters()
    names = [f"stream {i}" for i in range(streams)]
    optimizer = ComponentSGD(ours, 0.1, dict.fromkeys(names, 0.9), 0.05, decay_on=names[-1])
    sgd = torch.optim.SGD(theirs, 0.1, 0.9, weight_decay=0.05)
    for _ in range(12):
        gradients = {name: random_gradients(ours, generator) for name in names}
        gradients[names[0]][1] = None  # a parameter that one stream does not reach
        sums = [sum(g for g in column if g is not None) for column in zip(*gradients.values(), strict=True)]
        set_gradients(theirs, sums)
        component_step(optimizer, ours, gradients)
        sgd.step()
        close(ours, theirs)


def test_two_of_three_streams_with_equal_momentum_can_be_one():
    generator = torch.Generator().manual_seed(1)
    separate, merged = make_parameters(), make_parameters()
    three = ComponentSGD(separate, 0.1, {"a": 0.975, "b": 0.825, "c": 0.975}, 0.05)
    two = ComponentSGD(merged, 0.1, {"a+c": 0.975, "b": 0.825}, 0.05)
    for _ in range(8):
        a, b, c = (random_gradients(separate, generator) for _ in range(3))
        component_step(three, separate, {"c": c, "b": b, "a": a})
        component_step(two, merged, {"b": b, "a+c": [x + y for x, y in zip(a, c, strict=True)]})
        close(separate, merged)


# ---- the slow reference -------------------------------------------------------------------------------------------


def gradients_of_reach(parameters, reach, streams, generator, *, drop):
    """Random gradients of the parameters that each stream reaches; ``drop`` leaves out a tenth of them."""
    gradients = {}
    for stream in streams:
        gradients[stream] = [
            g if stream in r and not (drop and torch.rand((), generator=generator) < 0.1) else None
            for g, r in zip(random_gradients(parameters, generator), reach, strict=True)
        ]
    return gradients


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("decay_on", ["first", "last"])
@pytest.mark.parametrize("momentum", [DOT, DEEPKD], ids=["dot", "deepkd"])
def test_fifty_random_steps_equal_the_slow_reference(momentum, decay_on, weight_decay):
    streams = list(momentum)
    decay_on = streams[0] if decay_on == "first" else streams[-1]
    # Reached by every stream, by each one alone, by all but one, by none.
    reach = [set(streams), set(streams), *({s} for s in streams), *(set(streams) - {s} for s in streams), set()]
    parameters = make_parameters(shapes=[(2, 3)] * len(reach))
    generator = torch.Generator().manual_seed(7)
    optimizer = ComponentSGD(parameters, 0.05, momentum, weight_decay, decay_on=decay_on)
    reference = SlowReference(parameters, reach, lr=0.05, momentum=momentum, weight_decay=weight_decay, decay_on=decay_on)
    start = copies(parameters)
    for step in range(50):
        gradients = gradients_of_reach(parameters, reach, reversed(streams), generator, drop=step > 0)
        component_step(optimizer, parameters, gradients)
        reference.step(gradients)
        close(parameters, reference.weights)
    assert torch.equal(parameters[-1], start[-1])
    assert all((p - s).abs().max() > 0.1 for p, s in zip(parameters[:-1], start[:-1], strict=True))


def test_a_parameter_of_one_stream_moves_by_the_mean_momentum():
    kd_only = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = ComponentSGD([kd_only], 1.0, {"task": 0.7, "kd": 0.9})
    one = torch.ones(1, dtype=torch.float64)
    for _ in range(2):
        component_step(optimizer, [kd_only], {"kd": [one], "task": [None]})
    assert kd_only.item() == pytest.approx(-(1 + 1.8), rel=1e-12)  # 0.8 * 1 + 1


def test_partial_momentum_can_be_given():
    kd_only = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = ComponentSGD([kd_only], 1.0, {"task": 0.7, "kd": 0.9}, partial_momentum=0.25)
    one = torch.ones(1, dtype=torch.float64)
    for _ in range(2):
        component_step(optimizer, [kd_only], {"kd": [one], "task": [None]})
    assert kd_only.item() == pytest.approx(-(1 + 1.25), rel=1e-12)


def test_weight_decay_goes_to_the_first_stream_unless_told_otherwise():
    theta = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    optimizer = ComponentSGD([theta], 0.1, DOT, 0.5)
    zero = torch.zeros(1, dtype=torch.float64)
    component_step(optimizer, [theta], {"kd": [zero], "task": [zero]})
    buffers = optimizer.state[theta]["momentum_buffers"]
    assert (buffers["task"].item(), buffers["kd"].item()) == (1.0, 0.0)


def test_without_gradients_nothing_moves_or_decays():
    parameters = make_parameters()
    start = copies(parameters)
    optimizer = ComponentSGD(parameters, 0.1, DOT, 0.5)
    component_step(optimizer, parameters, {"kd": [None] * 3, "task": [None] * 3})
    optimizer.step()
    assert all(torch.equal(p, s) for p, s in zip(parameters, start, strict=True))


# ---- state, gradients, schedulers ---------------------------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("carry", [copy.deepcopy, through_a_file], ids=["in memory", "through a file"])
def test_continuing_from_a_saved_state_is_exact(carry):
    reach = [{"task", "kd"}, {"kd"}, set()]
    generator = torch.Generator().manual_seed(3)
    parameters = make_parameters()
    steps = [gradients_of_reach(parameters, reach, ("kd", "task"), generator, drop=False) for _ in range(12)]
    optimizer = ComponentSGD(parameters, 0.1, DOT, 0.05, decay_on="task")
    for gradients in steps[:5]:
        component_step(optimizer, parameters, gradients)
    optimizer.param_groups[0]["lr"] = 0.02

    continued = copies(parameters)
    resumed = ComponentSGD(continued, 0.1, DOT, 0.05, decay_on="task")
    resumed.load_state_dict(carry(optimizer.state_dict()))
    assert resumed.param_groups[0]["lr"] == 0.02
    for gradients in steps[5:]:
        component_step(optimizer, parameters, gradients)
        component_step(resumed, continued, gradients)
    assert all(torch.equal(p, c) for p, c in zip(parameters, continued, strict=True))

    forgetful = copies(make_parameters())
    fresh = ComponentSGD(forgetful, 0.1, DOT, 0.05, decay_on="task")
    for gradients in steps[5:]:
        component_step(fresh, forgetful, gradients)
    assert not torch.allclose(forgetful[0], parameters[0])


def test_the_callers_gradients_are_neither_modified_nor_shared():
    parameters = make_parameters()
    reference = copies(parameters)
    sgd = torch.optim.SGD(reference, 0.1, 0.9)
    optimizer = ComponentSGD(parameters, 0.1, {"task": 0.9, "kd": 0.9}, 0.0)
    gradients = random_gradients(parameters, torch.Generator().manual_seed(0))
    before = [g.clone() for g in gradients]
    for _ in range(3):
        for stream in ("kd", "task"):
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            optimizer.absorb(stream)
        optimizer.step()
        set_gradients(reference, [2 * g for g in before])
        sgd.step()
    assert all(torch.equal(g, b) for g, b in zip(gradients, before, strict=True))
    for g in gradients:
        g.zero_()  # as a caller that reuses its memory would
    component_step(optimizer, parameters, {"kd": gradients, "task": gradients})
    set_gradients(reference, gradients)
    sgd.step()
    close(parameters, reference)


def test_absorb_clears_the_gradients_and_leaves_the_weights():
    parameters = make_parameters()
    start = copies(parameters)
    optimizer = ComponentSGD(parameters, 0.1, DOT, 0.5)
    set_gradients(parameters, random_gradients(parameters, torch.Generator().manual_seed(0)))
    optimizer.absorb("kd")
    assert all(p.grad is None for p in parameters)
    assert all(torch.equal(p, s) for p, s in zip(parameters, start, strict=True))


SCHEDULERS = {
    "MultiStepLR": lambda optimizer: MultiStepLR(optimizer, [3, 6], 0.1),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=12, cycle_momentum=False),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_learning_rate_schedulers_work_as_on_torchs_sgd(scheduler):
    generator = torch.Generator().manual_seed(1)
    ours, theirs = make_parameters(), make_parameters()
    optimizer, sgd = (
        ComponentSGD(ours, 0.1, {"task": 0.9, "kd": 0.9}, 0.05),
        torch.optim.SGD(theirs, 0.1, 0.9, weight_decay=0.05),
    )
    our_schedule, their_schedule = scheduler(optimizer), scheduler(sgd)
    rates = set()
    for _ in range(10):
        task, kd = random_gradients(ours, generator), random_gradients(ours, generator)
        set_gradients(theirs, [a + b for a, b in zip(task, kd, strict=True)])
        component_step(optimizer, ours, {"kd": kd, "task": task})
        sgd.step()
        our_schedule.step()
        their_schedule.step()
        close(ours, theirs)
        rates.add(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[0]["lr"] == sgd.param_groups[0]["lr"]
    assert len(rates) >= 3


def test_step_runs_a_closure_with_gradients_and_returns_its_loss():
    parameter = torch.tensor([3.0], requires_grad=True)
    optimizer = ComponentSGD([parameter], 0.1, {"all": 0.9})

    def closure():
        loss = (parameter**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert parameter.item() == pytest.approx(2.4)


# ---- misuse -------------------------------------------------------------------------------------------------------


def test_an_unknown_stream_raises_with_the_nearest_name():
    optimizer = ComponentSGD(make_parameters(), 0.1, DOT)
    with pytest.raises(ValueError, match=r"unknown stream 'tsk'; did you mean 'task'\? Known: task, kd"):
        optimizer.absorb("tsk")
    with pytest.raises(ValueError, match=r"unknown stream 'xyzzy'\. Known: task, kd"):
        ComponentSGD(make_parameters(), 0.1, DOT, decay_on="xyzzy")


def test_a_stream_is_absorbed_once_a_step():
    parameters = make_parameters()
    optimizer = ComponentSGD(parameters, 0.1, DOT)
    gradients = random_gradients(parameters, torch.Generator().manual_seed(0))
    component_step(optimizer, parameters, {"kd": gradients, "task": gradients})
    optimizer.absorb("kd")  # a new step
    with pytest.raises(RuntimeError, match="stream 'kd' was absorbed twice in one step"):
        optimizer.absorb("kd")


def test_gradients_of_no_stream_are_refused_when_there_are_several():
    parameters = make_parameters()
    optimizer = ComponentSGD(parameters, 0.1, DOT)
    set_gradients(parameters, random_gradients(parameters, torch.Generator().manual_seed(0)))
    with pytest.raises(RuntimeError, match=r"belong to no stream.*one of: task, kd"):
        optimizer.step()


@pytest.mark.parametrize("coefficient", [-0.1, 1.0, 1.075])
def test_a_momentum_outside_zero_to_one_is_refused(coefficient):
    with pytest.raises(ValueError, match=rf"momentum of stream 'kd' must be in \[0, 1\), got {coefficient}"):
        ComponentSGD(make_parameters(), 0.1, {"task": 0.9, "kd": coefficient})


def test_negative_rates_and_missing_streams_are_refused():
    with pytest.raises(ValueError, match=r"must not be negative, got -0\.1 and 0\.0"):
        ComponentSGD(make_parameters(), -0.1, DOT)
    with pytest.raises(ValueError, match=r"must not be negative, got 0\.1 and -0\.5"):
        ComponentSGD(make_parameters(), 0.1, DOT, -0.5)
    with pytest.raises(ValueError, match="at least one stream"):
        ComponentSGD(make_parameters(), 0.1, {})


def test_a_copy_goes_on_like_the_original():
    parameters = make_parameters()
    optimizer = ComponentSGD(parameters, 0.1, DOT, weight_decay=0.01, decay_on="kd")
    twins, twin = copy.deepcopy((parameters, optimizer))
    for weights, opt in ((parameters, optimizer), (twins, twin)):
        for stream in DOT:
            for p in weights:
                p.grad = torch.ones_like(p)
            opt.absorb(stream)
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, twins, strict=True))


def test_a_state_with_other_streams_is_refused():
    one = ComponentSGD(make_parameters(), 0.1, {"all": 0.9})
    with pytest.raises(ValueError, match="the streams are all, not task, kd"):
        one.load_state_dict(ComponentSGD(make_parameters(), 0.1, DOT).state_dict())


def test_loading_a_state_ends_a_step_that_was_begun():
    optimizer = ComponentSGD(make_parameters(), 0.1, DOT)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.absorb("kd")
    optimizer.load_state_dict(state)
    optimizer.absorb("kd")


@pytest.mark.parametrize("group", [{"momentum": {"task": 3.0, "kd": 0.9}}, {"momentum": {"task": 0.9}}, {"lr": float("nan")}])
def test_a_group_of_its_own_is_checked_too(group):
    with pytest.raises(ValueError, match=r"must be in|the streams are|must not be negative"):
        ComponentSGD([{"params": make_parameters(), **group}], 0.1, DOT)
