"""CRD's layers, memories, constants and draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mdistiller_ext import losses as L
from mdistiller_ext.distillers import Output, Progress, create_distiller
from mdistiller_ext.distillers.outputs import Batch
from mdistiller_ext.errors import ConfigError
from tests.support.distillers import CLASSES, TinyModel, close
from tests.support.golden import golden

IMAGES, SAMPLES, DIM, K = 40, 6, 8, 16
LABELS = torch.arange(IMAGES) % CLASSES


def make_crd(labels=LABELS, seed=0, **options):
    """Set up for features of 5 and 7 numbers, in float64 and training mode."""
    torch.manual_seed(seed)
    distiller = create_distiller("CRD", TinyModel(), TinyModel(), **{"dim": DIM, "k": K} | options)
    distiller.train_labels = labels
    with torch.no_grad():
        distiller.setup(outputs(torch.zeros(2, 5)), outputs(torch.zeros(2, 7)))
    return distiller.double().train()


def outputs(features):
    return Output(torch.zeros(len(features), CLASSES, dtype=features.dtype), {"pooled_feat": features})


def make_batch(seed=0, index=None):
    """(student, teacher, batch) of random features."""
    generator = torch.Generator().manual_seed(seed)
    if index is None:
        index = torch.randperm(IMAGES, generator=generator)[:SAMPLES]
    student, teacher = (torch.randn(len(index), width, generator=generator, dtype=torch.float64) for width in (5, 7))
    return outputs(student), outputs(teacher), Batch(torch.zeros(len(index), 3, 2, 2), LABELS[index], index)


def nce(distiller, *batch):
    return distiller.losses(*batch, Progress(1, 240))["kd/nce"]


def own_state(distiller):
    return {name: tensor.clone() for name, tensor in distiller.own_state_dict().items()}


def test_two_batches_with_mdistillers_negatives_give_its_losses_gradients_and_memories():
    """``golden/contrast.npz``, see tests/losses/test_contrast.py."""
    arrays = golden("contrast")
    distiller = make_crd()
    with torch.no_grad():
        for side, layer in (("s", distiller.embed_s), ("t", distiller.embed_t)):
            layer.weight.copy_(arrays[f"weight_{side}"])
            layer.bias.copy_(arrays[f"bias_{side}"])
    distiller.memory_s.copy_(arrays["memory_s"])
    distiller.memory_t.copy_(arrays["memory_t"])
    for step in ("0", "1"):
        student = arrays[f"{step}/student"].requires_grad_()
        loss = distiller.contrastive_loss(
            outputs(student), outputs(arrays[f"{step}/teacher"]), arrays[f"{step}/index"], arrays[f"{step}/contrast"]
        )
        gradients = torch.autograd.grad(loss, [student, distiller.embed_s.weight, distiller.embed_t.weight])
        close(loss.detach(), arrays[f"{step}/loss"].squeeze(), 1e-10)
        for gradient, name in zip(gradients, ("gradient", "gradient_s", "gradient_t"), strict=True):
            close(gradient, arrays[f"{step}/{name}"], 1e-10)
        close(distiller.memory_s, arrays[f"{step}/memory_s"])
        close(distiller.memory_t, arrays[f"{step}/memory_t"])
        close(distiller.normalizers, arrays[f"{step}/z"])


def test_the_layers_fit_the_networks_and_the_memories_the_training_set():
    distiller = make_crd()
    assert (distiller.embed_s.in_features, distiller.embed_t.in_features) == (5, 7)
    assert distiller.embed_s.out_features == distiller.embed_t.out_features == DIM
    for memory in (distiller.memory_s, distiller.memory_t):
        assert memory.shape == (IMAGES, DIM)
        bound = (3 / DIM) ** 0.5  # mdistiller's
        assert 0.9 * bound < memory.abs().max() < bound
        assert abs(memory.mean()) < 0.1 * bound
    assert not torch.equal(distiller.memory_s, distiller.memory_t)
    learnable = {name for name, p in distiller.named_parameters() if p.requires_grad and not name.startswith("student.")}
    assert learnable == {"embed_s.weight", "embed_s.bias", "embed_t.weight", "embed_t.bias"}


def test_weights_multiply_the_components():
    batch = make_batch()
    plain, weighted = (
        make_crd(**options).losses(*batch, Progress(1, 240)) for options in ({}, {"ce_weight": 3.0, "feat_weight": 0.4})
    )
    close(weighted["task/ce"], 3 * plain["task/ce"])
    close(weighted["kd/nce"], 0.5 * plain["kd/nce"])


def test_the_loss_contrasts_each_embedding_with_the_others_memory():
    distiller = make_crd(feat_weight=1.0, temperature=0.5)
    student, teacher, batch = make_batch()
    bits = L.hashed_integers(distiller.seed, distiller.step, batch.index, K + 1)
    contrast = L.draw_contrast(bits, batch.index, batch.labels, distiller.order, distiller.counts)
    expected = 0
    for layer, output, memory in (
        (distiller.embed_s, student, distiller.memory_t),
        (distiller.embed_t, teacher, distiller.memory_s),
    ):
        scores = L.contrast_scores(
            L.unit_vectors(layer(output.features["pooled_feat"])), memory.clone(), contrast, temperature=0.5
        )
        expected += L.nce_loss(scores / (scores.mean() * IMAGES), IMAGES)
    close(nce(distiller, student, teacher, batch), expected)


def test_memories_take_the_embeddings_of_the_batch_alone():
    distiller = make_crd(momentum=0.0)
    before = own_state(distiller)
    student, teacher, batch = make_batch()
    nce(distiller, student, teacher, batch)
    others = torch.ones(IMAGES, dtype=torch.bool).index_fill(0, batch.index, False)
    for name, layer, output in (("memory_s", distiller.embed_s, student), ("memory_t", distiller.embed_t, teacher)):
        memory = getattr(distiller, name)
        close(memory[batch.index], L.unit_vectors(layer(output.features["pooled_feat"])).detach())
        assert torch.equal(memory[others], before[name][others])


def test_the_first_batch_sets_the_constants_for_good():
    distiller = make_crd()
    assert (distiller.normalizers == -1).all()
    nce(distiller, *make_batch(0))
    first = distiller.normalizers.clone()
    assert (first > 0).all()
    nce(distiller, *make_batch(1))
    assert torch.equal(distiller.normalizers, first)
    assert distiller.step.item() == 2


def test_evaluation_changes_nothing():
    distiller = make_crd().eval()
    before = own_state(distiller)
    with torch.no_grad():
        assert nce(distiller, *make_batch(index=torch.tensor([0, 0]))).isfinite()
    assert all(torch.equal(tensor, before[name]) for name, tensor in own_state(distiller).items())


def test_draws_change_with_every_step_and_do_not_depend_on_the_rest_of_the_batch():
    distiller = make_crd()
    student, teacher, batch = make_batch()
    halves = [
        (outputs(student.features["pooled_feat"][rows]), outputs(teacher.features["pooled_feat"][rows]),
         Batch(batch.images[rows], batch.labels[rows], batch.index[rows]))
        for rows in (slice(0, 2), slice(2, None))
    ]  # fmt: skip
    nce(distiller, student, teacher, batch)  # sets the constants
    distiller.eval()
    whole, *parts = (nce(distiller, *given) for given in ((student, teacher, batch), *halves))
    close(parts[0] / 3 + parts[1] * 2 / 3, whole)
    distiller.step.add_(1)
    assert (nce(distiller, student, teacher, batch) - whole).abs() > 1e-4


def test_a_resumed_run_continues_with_the_same_losses():
    first = make_crd()
    nce(first, *make_batch(0))
    second = make_crd(seed=5)
    second.load_own_state_dict(own_state(first))
    for seed in (1, 2):
        assert torch.equal(nce(second, *make_batch(seed)), nce(first, *make_batch(seed)))
    assert all(torch.equal(tensor, own_state(first)[name]) for name, tensor in own_state(second).items())


def test_only_what_cannot_be_derived_is_saved():
    assert set(make_crd().own_state_dict()) == {
        *(f"embed_{side}.{name}" for side in "st" for name in ("weight", "bias")),
        *("memory_s", "memory_t", "normalizers", "seed", "step"),
    }


def test_a_checkpoint_of_another_data_set_is_refused():
    other = make_crd(labels=LABELS[:30])
    with pytest.raises(ConfigError, match=r"^CRD: the checkpoint's memory holds 30 images, the data set has 40$"):
        make_crd().load_own_state_dict(other.own_state_dict())
    with pytest.raises(ConfigError, match="CRD has layers"):
        make_crd().load_own_state_dict({})


def test_the_relaxed_mode_draws_other_positives():
    exact, relaxed = (nce(make_crd(mode=mode), *make_batch()) for mode in ("exact", "relax"))
    assert (exact - relaxed).abs() > 1e-4


def test_training_brings_student_and_teacher_embeddings_of_an_image_together():
    torch.manual_seed(0)
    distiller = make_crd(momentum=0.5)
    features = torch.randn(IMAGES, 12, dtype=torch.float64)
    optimizer = torch.optim.SGD([*distiller.embed_s.parameters(), *distiller.embed_t.parameters()], lr=0.02)

    def similarity():
        with torch.no_grad():
            own, other = L.unit_vectors(distiller.embed_s(features[:, :5])), L.unit_vectors(distiller.embed_t(features[:, :7]))
        return (own @ other.T).diag().mean() - (own @ other.T).mean()

    before = similarity()
    for _ in range(30):
        optimizer.zero_grad()
        nce(
            distiller, outputs(features[:, :5]), outputs(features[:, :7]), Batch(features, LABELS, torch.arange(IMAGES))
        ).backward()
        optimizer.step()
    assert similarity() > before + 0.3


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_features_give_finite_losses_and_gradients(scale):
    distiller = make_crd()
    nn.init.zeros_(distiller.embed_s.bias)  # zero features have a zero embedding
    student, teacher, batch = make_batch()
    features = (scale * student.features["pooled_feat"]).requires_grad_()
    loss = nce(distiller, outputs(features), teacher, batch)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, features)[0].isfinite().all()
    assert distiller.memory_s.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "loose"}, r"CRD\.MODE must be exact or relax, not 'loose'"),
        ({"k": 0}, r"CRD\.FEAT\.DIM and CRD\.NCE\.K must be at least 1, not 8 and 0"),
        ({"dim": 0}, r"CRD\.FEAT\.DIM and CRD\.NCE\.K must be at least 1, not 0 and 16"),
        ({"momentum": 1.5}, r"CRD\.NCE\.MOMENTUM must be in \[0, 1\], not 1\.5"),
        ({"temperature": 0.0}, r"CRD\.NCE\.TEMPERATURE must be positive, not 0\.0"),
        (
            {"labels": torch.zeros(9, dtype=torch.long)},
            "negatives from other classes, and all training images have the same label",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_crd(**options)
