"""CRD's contrastive loss and choice of negatives.

``golden/contrast.npz``: two batches of mdistiller's CRD with 40 training samples, embeddings of 8 numbers and 16 negatives a
sample, drawn at random; parameters, memories, loss and gradients in float64.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext import losses as L
from tests.support.golden import golden
from tests.support.logits import close

SEED, STEP = torch.tensor(7), torch.tensor(3)
LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 4, 0, 2, 1])  # no sample of class 3
ORDER, COUNTS = LABELS.argsort(stable=True), LABELS.bincount(minlength=5)


def random_scores(seed=0, shape=(6, 17)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(rows, columns, *, relaxed=False, step=STEP):
    bits = L.hashed_integers(SEED, step, rows, columns)
    return L.draw_contrast(bits, rows, LABELS[rows], ORDER, COUNTS, relaxed=relaxed)


# ---- loss and memory ----------------------------------------------------------------------------------------------


def test_two_batches_equal_mdistillers():
    arrays = golden("contrast")
    memories = {side: arrays[f"memory_{side}"].clone() for side in "st"}
    layers = {side: arrays[f"weight_{side}"].requires_grad_() for side in "st"}
    for step in ("0", "1"):
        batch = {key.split("/")[1]: value for key, value in arrays.items() if key.startswith(f"{step}/")}
        features = {"s": batch["student"].requires_grad_(), "t": batch["teacher"]}
        anchors = {side: L.unit_vectors(F.linear(features[side], layers[side], arrays[f"bias_{side}"])) for side in "st"}
        loss = 0
        for k, (side, other) in enumerate(("st", "ts")):
            scores = L.contrast_scores(anchors[side], memories[other].clone(), batch["contrast"], temperature=0.07)
            if step == "0":
                close(scores.mean().detach() * 40, batch["z"][k], 1e-10)
            loss += L.nce_loss(scores / batch["z"][k], 40)
        close(loss.detach(), batch["loss"], 1e-10)
        gradients = torch.autograd.grad(loss, [features["s"], layers["s"], layers["t"]])
        for gradient, name in zip(gradients, ("gradient", "gradient_s", "gradient_t"), strict=True):
            close(gradient, batch[name], 1e-10)
        for side, memory in memories.items():
            memory[batch["index"]] = L.moved_entries(memory, batch["index"], anchors[side].detach(), momentum=0.5)
            close(memory, batch[f"memory_{side}"], 1e-12)


def test_scores_are_exponentials_of_inner_products_with_the_chosen_entries():
    anchors, memory = random_scores(1, (3, 4)), random_scores(2, (9, 4))
    contrast = torch.tensor([[0, 8, 8], [3, 1, 0], [5, 5, 5]])
    expected = (torch.einsum("nd,nkd->nk", anchors, memory[contrast]) / 0.5).exp()
    close(L.contrast_scores(anchors, memory, contrast, temperature=0.5), expected)


def test_gradients_are_those_of_finite_differences():
    anchors, memory = random_scores(1, (3, 4)).requires_grad_(), random_scores(2, (9, 4))
    contrast = torch.tensor([[0, 8, 8], [3, 1, 0], [5, 5, 5]])
    assert torch.autograd.gradcheck(
        lambda a: L.nce_loss(L.contrast_scores(L.unit_vectors(a), memory, contrast, temperature=0.1) / 20, 9), anchors
    )


def test_the_loss_falls_with_the_positives_score_and_rises_with_the_negatives():
    scores = random_scores().requires_grad_()
    gradient = torch.autograd.grad(L.nce_loss(scores, 40), scores)[0]
    assert (gradient[:, 0] < 0).all()
    assert (gradient[:, 1:] > 0).all()


def test_the_loss_is_the_likelihood_of_telling_the_positive_from_the_noise():
    scores = random_scores()
    posterior = scores / (scores + 16 / 40 + 1e-7)
    others = (16 / 40) / (scores[:, 1:] + 16 / 40 + 1e-7)
    close(L.nce_loss(scores, 40), -(posterior[:, 0].log() + others.log().sum(1)).mean())


@pytest.mark.parametrize("anchors", [torch.zeros(3, 4), torch.full((3, 4), 1e4), torch.full((3, 4), -1e4)])
def test_extreme_features_give_finite_losses_and_gradients(anchors):
    memory = L.unit_vectors(random_scores(2, (9, 4)).float())
    anchors = anchors.requires_grad_()
    scores = L.contrast_scores(L.unit_vectors(anchors), memory, torch.arange(9).reshape(3, 3), temperature=0.07)
    loss = L.nce_loss(scores / 9, 9)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, anchors)[0].isfinite().all()


def test_entries_move_by_their_momentum_and_stay_unit_vectors():
    memory, vectors = L.unit_vectors(random_scores(1, (9, 4))), L.unit_vectors(random_scores(2, (2, 4)))
    index = torch.tensor([4, 0])
    close(L.moved_entries(memory, index, vectors, momentum=1.0), memory[index])
    close(L.moved_entries(memory, index, vectors, momentum=0.0), vectors)
    close(L.moved_entries(memory, index, vectors, momentum=0.25), F.normalize(0.25 * memory[index] + 0.75 * vectors))


# ---- choice of the entries ----------------------------------------------------------------------------------------


def test_the_hash_is_splitmix64():
    """Of the key's sequence: the numbers are those of the reference implementation, in Python's integers."""
    mask = 2**64 - 1

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    increment = 0x9E3779B97F4A7C15
    expected = []
    for index in (0, 49_999):
        key = mix((7 + increment) & mask)
        key = mix((key + 3 * increment) & mask)
        key = mix((key + (index + 1) * increment) & mask)
        expected.append([mix((key + column * increment) & mask) >> 1 for column in (1, 2, 3)])
    assert L.hashed_integers(SEED, STEP, torch.tensor([0, 49_999]), 3).tolist() == expected


def test_hashed_integers_depend_on_seed_step_sample_and_column_alone():
    index = torch.arange(100)
    bits = L.hashed_integers(SEED, STEP, index, 50)
    assert (bits >= 0).all()
    assert bits.unique().numel() == 5000
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(L.hashed_integers(SEED, STEP, order, 50), bits[order])
    for other in (L.hashed_integers(SEED + 1, STEP, index, 50), L.hashed_integers(SEED, STEP + 1, index, 50)):
        assert not torch.isin(other, bits).any()


def test_negatives_are_uniform_over_the_samples_of_other_classes():
    rows = torch.arange(len(LABELS))
    contrast = draws(rows, 40_001)
    assert torch.equal(contrast[:, 0], rows)
    for row, choice in enumerate(contrast[:, 1:]):
        others = (LABELS[row] != LABELS).nonzero().flatten()
        counts = choice.bincount(minlength=len(LABELS))
        assert counts.nonzero().flatten().tolist() == others.tolist()
        # Chi-squared over at most 8 degrees of freedom: 40 has probability 3e-6.
        expected = 40_000 / len(others)
        assert ((counts[others] - expected) ** 2 / expected).sum() < 40


def test_negatives_of_different_samples_steps_and_columns_are_not_related():
    rows = torch.tensor([1, 3])  # of one class
    choices = [draws(rows, 20_001, step=torch.tensor(step))[:, 1:].double() for step in (0, 1)]
    sequences = torch.cat(choices).numpy()
    correlations = np.corrcoef(np.concatenate([sequences[:, :-1], sequences[:, 1:]])) - np.eye(8)
    assert np.abs(correlations).max() < 5 / 20_000**0.5


def test_the_relaxed_mode_draws_the_positive_from_its_class():
    rows = torch.tensor([0, 1, 6])
    steps = [draws(rows, 5, relaxed=True, step=torch.tensor(step)) for step in range(200)]
    positives = torch.stack([contrast[:, 0] for contrast in steps])
    for row, choice in zip(rows, positives.T, strict=True):
        assert choice.unique().tolist() == (LABELS[row] == LABELS).nonzero().flatten().tolist()
    negatives = torch.stack([contrast[:, 1:] for contrast in steps])
    assert (LABELS[negatives] != LABELS[rows][None, :, None]).all()
