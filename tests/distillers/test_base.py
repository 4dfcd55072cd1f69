"""The distillers' contract, over every registered one, and faulty methods."""

from __future__ import annotations

import copy
import inspect
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller_ext.distillers import Distiller, Progress, Weight, create_distiller, register_distiller
from mdistiller_ext.distillers.base import ROLES
from mdistiller_ext.distillers.kd import KD
from mdistiller_ext.distillers.outputs import Batch, run_network
from mdistiller_ext.errors import ConfigError, UnknownNameError
from mdistiller_ext.registry import DISTILLERS, OWN
from tests.support.distillers import (
    CLASSES,
    COMPONENTS,
    IMAGE_SHAPE,
    NUM_IMAGES,
    UNTRAINED,
    TinyModel,
    make_batch,
    make_distiller,
    run,
)

# Numbers that are no weights of losses.
NOT_WEIGHTS = {"t", "temperature", "final_t", "k_initial", "epsilon", "momentum", "tau_w", "tau_s", "init_pred_var", "eps"}
NOT_WEIGHTS_OF = {("TTM", "gamma"), ("WTTM", "gamma")}

# Settings with which every component reaches the student.
ALL_COMPONENTS = {"SIMKD": {"ce_weight": 1.0}, "CRLD": {"tau_w": 0.0}}

every_distiller = pytest.mark.parametrize("name", list(DISTILLERS))
every_taught_distiller = pytest.mark.parametrize("name", [n for n in DISTILLERS if DISTILLERS.get(n).needs_teacher])


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_are_those_of_the_design(name):
    distiller = make_distiller(name)
    _, losses = run(distiller)
    assert list(losses) == COMPONENTS[name]
    assert distiller.component_names(IMAGE_SHAPE) == COMPONENTS[name]


@every_distiller
def test_components_are_finite_scalars_with_a_role(name):
    _, losses = run(make_distiller(name))
    for key, value in losses.items():
        role, component = key.split("/")
        assert role in ROLES
        assert component
        assert value.shape == ()
        assert value.isfinite()


@every_distiller
def test_every_method_trains_its_student(name):
    distiller = make_distiller(name)
    output, losses = run(distiller, epoch=20)
    sum(losses.values()).backward()
    assert output.logits.shape == (16, CLASSES)
    for parameter, p in distiller.student.named_parameters():
        if parameter.startswith(UNTRAINED.get(name, ())):
            assert p.grad is None
            continue
        assert p.grad.isfinite().all()
        assert p.grad.abs().max() > 0


@every_distiller
def test_every_component_alone_has_a_gradient(name):
    distiller = make_distiller(name, **ALL_COMPONENTS.get(name, {}))
    # In the middle of training, when nothing has faded out or is not there yet.
    for value in run(distiller, epoch=120)[1].values():
        gradient = torch.autograd.grad(value, distiller.student.stages[0].weight, retain_graph=True)[0]
        assert gradient.abs().max() > 1e-6


@every_distiller
def test_the_students_logits_are_returned_as_the_student_gives_them(name):
    distiller = make_distiller(name).eval()
    images = make_batch(distiller)["images"]
    first_view = images if images.ndim == 4 else images[:, 0]
    assert torch.equal(run(distiller)[0].logits, distiller.student(first_view)[0])


@every_distiller
def test_the_teacher_is_frozen_and_stays_in_eval_mode(name):
    distiller = make_distiller(name)
    before = state_of(distiller.teacher)
    student_before = state_of(distiller.student)
    for _ in range(2):
        distiller.train()
        assert distiller.student.norm.training
        assert not any(module.training for module in distiller.teacher.modules())
        _, losses = run(distiller, epoch=5)
        sum(losses.values()).backward()
    assert all(not p.requires_grad and p.grad is None for p in distiller.teacher.parameters())
    assert same_state(state_of(distiller.teacher), before)
    assert not torch.equal(distiller.student.norm.running_mean, student_before["norm.running_mean"])


@every_distiller
def test_a_teacher_handed_over_in_training_mode_is_switched_to_eval(name):
    teacher = TinyModel(seed=2).train()
    create_distiller(name, TinyModel(seed=1), teacher)
    assert not teacher.training
    assert not teacher.norm.training


@pytest.mark.parametrize("name", [n for n in DISTILLERS if DISTILLERS.get(n).setup is Distiller.setup])
def test_only_the_students_parameters_are_learnable_and_nothing_is_the_methods_own(name):
    distiller = make_distiller(name)
    assert [id(p) for p in distiller.learnable_parameters()] == [id(p) for p in distiller.student.parameters()]
    assert distiller.own_state_dict() == {}


@every_distiller
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_asking_for_the_component_names_leaves_mode_and_weights_and_statistics(name, training):
    distiller = make_distiller(name).train(training)
    before = state_of(distiller)
    distiller.component_names(IMAGE_SHAPE)
    assert distiller.training == distiller.student.training == distiller.student.norm.training == training
    assert not distiller.teacher.training
    assert same_state(state_of(distiller), before)
    assert all(p.grad is None for p in distiller.parameters())


@every_distiller
def test_a_last_batch_of_one_sample_gives_finite_losses_and_gradients(name):
    distiller = make_distiller(name).eval()  # a batch norm cannot be trained on one value a channel
    total = sum(run(distiller, samples=1)[1].values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in distiller.learnable_parameters() if p.grad is not None)


@every_distiller
def test_losses_read_nothing_back_to_the_host(name):
    """On meta tensors, which have no values: reading one, or a shape that depends on one, is an error there."""
    distiller = make_distiller(name)
    distiller.to("meta")
    batch = Batch(**{key: value.to("meta") for key, value in make_batch(distiller).items()})
    views = batch.images.unbind(1) if len(distiller.views) > 1 else (batch.images,)
    student, teacher = (
        tuple(run_network(network, view, "student") for view in views) for network in (distiller.student, distiller.teacher)
    )
    if len(views) == 1:
        (student,), (teacher,) = student, teacher
    given = batch if "batch" in inspect.signature(distiller.losses).parameters else batch.labels
    losses = distiller.losses(student, teacher, given, Progress(1, 240, "meta"))
    sum(losses.values()).backward()


@every_distiller
def test_hyper_parameters_are_keyword_only_with_defaults(name):
    parameters = list(inspect.signature(DISTILLERS.get(name)).parameters.values())
    assert [p.name for p in parameters[:2]] == ["student", "teacher"]
    for p in parameters[2:]:
        assert p.kind is inspect.Parameter.KEYWORD_ONLY
        assert p.default is not inspect.Parameter.empty


@every_distiller
def test_an_unknown_hyper_parameter_is_a_type_error(name):
    with pytest.raises(TypeError, match="bogus"):
        make_distiller(name, bogus=1.0)


@every_distiller
def test_a_negative_weight_is_refused_by_the_name_of_its_setting(name):
    """Every number of a method is a weight, unless the tables above name it."""
    distiller = DISTILLERS.get(name)
    numbers = [key for key, p in inspect.signature(distiller.__init__).parameters.items() if isinstance(p.default, float)]
    for key in set(numbers) - NOT_WEIGHTS - {argument for method, argument in NOT_WEIGHTS_OF if method == name}:
        setting = distiller.config_keys.get(key, key.upper())
        with pytest.raises(ConfigError, match=rf"^{name}\.{setting} must not be negative, not -0\.5$"):
            make_distiller(name, **{key: -0.5})
        make_distiller(name, **{key: 0.0})


@pytest.mark.usefixtures("forget_plugins")
def test_a_plug_in_declares_its_weights_or_not():
    class Plain(Distiller):
        def __init__(self, student, teacher, *, mse_weight=0.1, shift=0.0):
            super().__init__(student, teacher)

    class Declared(Plain):
        config_keys: ClassVar[dict[str, str]] = {"mse_weight": "LOSS.MSE_WEIGHT"}

        def __init__(self, student, teacher, *, mse_weight: Weight = 0.1, shift: float = 0.0):
            super().__init__(student, teacher)

    class Unresolved(Plain):
        def __init__(self, student: NotImported, teacher, *, mse_weight: Weight = 0.1):  # noqa: F821
            super().__init__(student, teacher)

    for distiller in (Plain, Declared, Unresolved):
        register_distiller(distiller.__name__)(distiller)
    with pytest.raises(ConfigError, match=r"^Declared\.LOSS\.MSE_WEIGHT must not be negative, not -1$"):
        make_distiller("Declared", mse_weight=-1)
    make_distiller("Declared", shift=-1.0)
    for name in ("Plain", "Unresolved"):
        make_distiller(name, mse_weight=-1)


@every_taught_distiller
def test_a_missing_teacher_is_reported(name):
    with pytest.raises(ConfigError, match="needs a teacher"):
        create_distiller(name, TinyModel(), None)


def test_the_baseline_works_without_a_teacher():
    distiller = create_distiller("NONE", TinyModel(), None).train()
    output, losses = run(distiller)
    assert losses["task/ce"].item() == pytest.approx(F.cross_entropy(output.logits, make_batch()["labels"]).item())
    assert distiller.component_names(IMAGE_SHAPE) == ["task/ce"]


def test_an_unknown_distiller_is_reported_with_the_nearest_name():
    with pytest.raises(UnknownNameError) as raised:
        create_distiller("DKDD", TinyModel(), TinyModel())
    message = str(raised.value)
    assert message.startswith("unknown distiller 'DKDD'; did you mean 'DKD'? Known: ")
    assert message.removesuffix(OWN).split("Known: ")[1].split(", ") == sorted(DISTILLERS)
    assert set(COMPONENTS) <= set(DISTILLERS)


# ---- progress -----------------------------------------------------------------------------------------------------


def test_progress_counts_from_one_and_keeps_its_tensor():
    progress = Progress(1, 240)
    epoch = progress.epoch
    assert progress.fraction.item() == 1 / 240
    progress.set_epoch(60)
    assert progress.epoch is epoch
    assert progress.fraction.item() == 0.25


# ---- errors -------------------------------------------------------------------------------------------------------


class Faulty(Distiller):
    """Returns whatever it is told to."""

    def __init__(self, result):
        super().__init__(TinyModel(seed=1), TinyModel(seed=2))
        self.result = result

    def losses(self, student, teacher, labels, progress):
        return self.result


ONE = torch.tensor(1.0)


@pytest.mark.parametrize("key", ["ce", "loss/ce", "task/", "/ce", "task/ce/extra", "Task/ce", ""])
def test_a_component_without_role_and_name_is_reported(key):
    with pytest.raises(ConfigError, match=rf"Faulty\.losses\(\) returned '{key}'.*role one of task, target, nontarget, kd"):
        Faulty({"task/ce": ONE, key: ONE})(progress=Progress(1, 240), **make_batch())


@pytest.mark.parametrize(("value", "shown"), [(torch.ones(16), r"\[16\]"), (torch.ones(1), r"\[1\]"), (1.0, "float")])
def test_a_component_that_is_no_scalar_tensor_is_reported(value, shown):
    with pytest.raises(ConfigError, match=rf"Faulty\.losses\(\)\['kd/x'\] must be a scalar tensor, not {shown}"):
        Faulty({"task/ce": ONE, "kd/x": value})(progress=Progress(1, 240), **make_batch())


def test_a_method_without_components_is_reported():
    with pytest.raises(ConfigError, match="returned no component"):
        Faulty({})(progress=Progress(1, 240), **make_batch())


def test_components_are_still_checked_after_a_failed_call():
    distiller = Faulty({"ce": ONE})
    for _ in range(2):
        with pytest.raises(ConfigError, match="role/name"):
            distiller(progress=Progress(1, 240), **make_batch())


class Changing(KD):
    """KD whose components are other ones from the third epoch on."""

    def losses(self, student, teacher, labels, progress):
        losses = super().losses(student, teacher, labels, progress)
        return losses if progress.epoch < 3 else self.later(losses)


@pytest.mark.parametrize(
    ("later", "change"),
    [
        (lambda losses: losses | {"kd/late": losses["task/ce"]}, "adds kd/late"),
        (lambda losses: {"task/ce": losses["task/ce"]}, "leaves out nontarget/nckd, target/tckd"),
        (lambda losses: {"task/late": losses["task/ce"]}, "adds task/late and leaves out nontarget/nckd, target/tckd, task/ce"),
    ],
    ids=["new", "missing", "both"],
)
def test_components_that_change_later_are_refused(later, change):
    """The records have a column for each component of the first step: another one would be trained and not recorded."""
    distiller = Changing(TinyModel(seed=1), TinyModel(seed=2))
    distiller.later = later
    distiller.component_names(IMAGE_SHAPE)
    for epoch in (1, 2):
        distiller(progress=Progress(epoch, 4), **make_batch())
    with pytest.raises(ConfigError, match=rf"^Changing\.losses\(\) {change} in epoch 3: every step returns the same names"):
        distiller(progress=Progress(3, 4), **make_batch())


@every_taught_distiller
def test_student_and_teacher_of_different_classes_are_reported(name):
    distiller = create_distiller(name, TinyModel(CLASSES), TinyModel(CLASSES + 1))
    distiller.train_labels = torch.arange(NUM_IMAGES) % CLASSES
    with pytest.raises(ConfigError, match="the student has 10 classes and the teacher 11"):
        run(distiller)


class WrongShape(TinyModel):
    def forward(self, images):
        return images, {}


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_logits_of_a_wrong_shape_are_reported(who):
    models = {"student": TinyModel(), "teacher": TinyModel()} | {who: WrongShape()}
    with pytest.raises(ConfigError, match=rf"the {who} must return logits \[N, C\] with N = 16, not \[16, 3, 2, 2\]"):
        create_distiller("KD", models["student"], models["teacher"])(progress=Progress(1, 240), **make_batch())


@pytest.mark.parametrize(
    ("name", "hyper_parameters", "message"),
    [
        ("KD", {"rule": "release"}, r"KD\.RULE must be paper or official, not 'release'"),
        ("DIST", {"parts": 0}, r"DIST\.PARTS must be at least 1, not 0"),
        ("DEEPKD", {"weighting": "both"}, r"DEEPKD\.WEIGHTING must be dkd or kd, not 'both'"),
        ("DEEPKD", {"k_initial": 0.0}, r"DEEPKD\.K_INITIAL must be in \(0, 1\]"),
        ("DEEPKD", {"k_initial": 1.5}, r"DEEPKD\.K_INITIAL must be in \(0, 1\]"),
        ("DEEPKD", {"k_static": 0}, "K_STATIC at least 1"),
        ("PRKD", {"first_epoch": 2}, r"PRKD\.FIRST_EPOCH must be 0 or 1, not 2"),
        ("PRKD", {"average_last": -1}, r"PRKD\.AVERAGE_LAST must not be negative, got -1"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(name, hyper_parameters, message):
    with pytest.raises(ConfigError, match=message):
        make_distiller(name, **hyper_parameters)


@pytest.mark.parametrize(
    ("name", "hyper_parameters", "message"),
    [
        ("GDKD", {"topk": CLASSES}, r"topk must be in \[1, 9\]"),
        ("GDKD", {"kl_type": "backward"}, "unknown kl_type 'backward'"),
        ("GDKD3", {"topk": 1}, r"topk must be in \[2, 9\]"),
        ("PRKD", {"variant": "prkd_c"}, "unknown PRKD variant 'prkd_c'"),
        ("PRKD", {"correlation": "intra"}, "unknown correlation 'intra'"),
    ],
)
def test_hyper_parameters_that_a_loss_refuses_are_refused_before_training(name, hyper_parameters, message):
    with pytest.raises(ConfigError, match=message):
        make_distiller(name, **hyper_parameters).component_names(IMAGE_SHAPE)


# ---- a method with layers of its own ------------------------------------------------------------------------------


class WithLayers(Distiller):
    """Matches a projection of the student's logits to the teacher's."""

    def __init__(self, student, teacher, *, seed=0):
        super().__init__(student, teacher)
        torch.manual_seed(seed)
        # A batch norm among it: buffers are state, too.
        self.projection = nn.Sequential(nn.BatchNorm1d(CLASSES), nn.Linear(CLASSES, CLASSES)).double()
        self.teacher_scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def losses(self, student, teacher, labels, progress):
        return {"kd/mse": F.mse_loss(self.projection(student.logits), self.teacher_scale * teacher.logits)}


OWN_ENTRIES = {
    "teacher_scale",
    *("projection.1." + name for name in ("weight", "bias")),
    *("projection.0." + name for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
}


def test_own_layers_are_learnable_and_the_teacher_is_not():
    distiller = WithLayers(TinyModel(seed=1), TinyModel(seed=2))
    learnable = {id(p) for p in distiller.learnable_parameters()}
    own = [*distiller.projection.parameters(), distiller.teacher_scale]
    assert learnable == {id(p) for p in [*distiller.student.parameters(), *own]}
    distiller(progress=Progress(1, 240), **make_batch())[1]["kd/mse"].backward()
    assert all(p.grad is not None for p in distiller.learnable_parameters())


def test_own_layers_make_a_round_trip_through_their_own_state():
    first = WithLayers(TinyModel(seed=1), TinyModel(seed=2), seed=3).train()
    first(progress=Progress(1, 240), **make_batch())  # moves the batch norm's statistics
    second = WithLayers(TinyModel(seed=4), TinyModel(seed=5), seed=6)
    student, teacher = state_of(second.student), state_of(second.teacher)
    saved = first.own_state_dict()
    assert saved.keys() == OWN_ENTRIES
    second.load_own_state_dict(saved)
    assert same_state(second.own_state_dict(), saved)
    assert same_state(state_of(second.projection), state_of(first.projection))
    assert same_state(state_of(second.student), student)
    assert same_state(state_of(second.teacher), teacher)


def test_own_state_of_another_method_is_refused():
    distiller = WithLayers(TinyModel(seed=1), TinyModel(seed=2))
    with pytest.raises(ConfigError, match=r"WithLayers has layers .*teacher_scale.* the checkpoint"):
        distiller.load_own_state_dict({})
    with pytest.raises(ConfigError, match="KD has layers"):
        make_distiller("KD").load_own_state_dict(distiller.own_state_dict())


def test_own_layers_keep_the_students_mode_and_the_teacher_stays_in_eval():
    distiller = WithLayers(TinyModel(seed=1), TinyModel(seed=2))
    distiller.train()
    assert distiller.projection[0].training
    assert not distiller.teacher.norm.training
    before = state_of(distiller)
    assert distiller.component_names(IMAGE_SHAPE) == ["kd/mse"]
    assert distiller.projection[0].training
    assert same_state(state_of(distiller), before)


# ---- layers built from features, views, index --------------------------------------------------------------------------


class Projected(Distiller):
    """Joins the deepest maps by a layer and a memory that setup() builds."""

    needs_index = True
    views = ("weak", "strong")
    lr_scale: ClassVar[dict[str, float]] = {"projection": 0.5}

    def setup(self, student, teacher):
        self.shapes = [[output.features["feats"][-1].shape for output in outputs] for outputs in (student, teacher)]
        self.modes = self.student.training, self.teacher.training
        self.projection = nn.Conv2d(12, 16, 1)
        self.register_buffer("seen", torch.zeros(len(self.train_labels)))

    def losses(self, student, teacher, batch, progress):
        self.batch = batch
        if self.training:
            self.seen[batch.index] += 1
        pairs = zip(student, teacher, strict=True)
        differences = [self.projection(s.features["feats"][-1]) - t.features["feats"][-1] for s, t in pairs]
        return {"kd/maps": sum(each.square().mean() for each in differences)}


@pytest.fixture
def projected():
    distiller = Projected(TinyModel(seed=1), TinyModel(seed=2, widths=(4, 6, 8, 16)))
    distiller.train_labels = torch.arange(NUM_IMAGES) % CLASSES
    return distiller


def test_setup_sees_the_outputs_of_all_views_in_eval_mode_and_builds_layers_in_the_students_dtype(projected):
    projected.train().prepare(IMAGE_SHAPE)
    assert projected.shapes == [[(2, 12, 2, 2)] * 2, [(2, 16, 2, 2)] * 2]
    assert projected.modes == (False, False)
    assert projected.projection.weight.dtype == projected.seen.dtype == torch.float64
    assert projected.training
    projection = projected.projection
    projected.component_names(IMAGE_SHAPE)
    assert projected.projection is projection
    assert not projected.seen.any()


def test_a_batch_has_all_views_and_the_index(projected):
    inputs = make_batch(projected)
    output, _ = run(projected)
    assert inputs["images"].shape == (16, 2, *IMAGE_SHAPE)
    assert torch.equal(projected.batch.index, inputs["index"])
    assert torch.equal(projected.batch.labels, inputs["labels"])
    assert torch.equal(projected.seen.nonzero().flatten(), inputs["index"].sort().values)
    assert torch.equal(output.logits, copy.deepcopy(projected.student)(inputs["images"][:, 0])[0])


def test_parameters_are_not_given_out_before_own_layers_are_there(projected):
    with pytest.raises(
        RuntimeError, match=r"Projected has no layers yet: call prepare\(image_shape\) before creating an optimizer"
    ):
        projected.learnable_parameters()
    projected.prepare(IMAGE_SHAPE)
    assert projected.projection.weight in set(projected.learnable_parameters())


def test_a_method_that_needs_the_index_needs_the_labels_of_the_training_set():
    with pytest.raises(ConfigError, match="Projected needs the labels of the training set"):
        Projected(TinyModel(seed=1), TinyModel(seed=2)).prepare(IMAGE_SHAPE)


class NoFeatures(TinyModel):
    def forward(self, images):
        return super().forward(images)[0], {}


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_network_without_the_features_of_a_method_is_reported_before_training(who):
    networks = {"student": TinyModel(), "teacher": TinyModel(widths=(4, 4, 8, 16))} | {who: NoFeatures()}
    distiller = Projected(**networks)
    distiller.train_labels = torch.zeros(4)
    with pytest.raises(ConfigError) as caught:
        distiller.component_names(IMAGE_SHAPE)
    assert str(caught.value) == (
        f"the method reads the features 'feats' of the {who} (NoFeatures), which returns none: name modules of it in "
        f"DISTILLER.{who.upper()}_FEATURES, or choose another network"
    )


def test_features_have_the_dtype_of_the_images_under_autocast():
    class Reads(Distiller):
        def losses(self, student, teacher, labels, progress):
            self.dtypes = {each.dtype for each in (student.logits, *student.features["feats"], student.features["pooled_feat"])}
            return {"task/ce": F.cross_entropy(student.logits, labels)}

    distiller = Reads(TinyModel(seed=1).float(), TinyModel(seed=2).float())
    distiller.autocast = torch.bfloat16
    inputs = make_batch()
    distiller(inputs["images"].float(), inputs["labels"], Progress(1, 240))
    assert distiller.dtypes == {torch.float32}
