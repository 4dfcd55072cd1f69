"""Random feature maps and layers, the same numbers on every platform and version of torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from mdistiller_ext.distillers import Batch, Output, Progress, create_distiller

from .distillers import CLASSES, TinyModel, close

GOLDEN = Path(__file__).parents[1] / "golden" / "adapters.npz"
# Maps of a network and its pooled features; the last stages of both differ in size.
SMALL = ((3, 3, 8, 8), (3, 4, 8, 8), (3, 5, 4, 4), (3, 6, 2, 2))
LARGE = ((3, 3, 8, 8), (3, 5, 8, 8), (3, 6, 8, 8), (3, 7, 4, 4))


def random_maps(shapes, seed=0):
    """Float64 tensors of standard normal numbers."""
    state = np.random.RandomState(seed)  # its stream of numbers never changes
    return [torch.tensor(state.standard_normal(shape)) for shape in shapes]


def random_output(shapes, seed=0, *, preact=True):
    """Output with maps of these shapes as ``feats``, others as ``preact_feats``, and pooled features; all require gradients."""
    n, width = shapes[0][0], shapes[-1][1]
    logits, pooled, *maps = (x.requires_grad_() for x in random_maps([(n, CLASSES), (n, width), *shapes, *shapes], seed))
    features = {"feats": maps[: len(shapes)], "preact_feats": maps[len(shapes) :], "pooled_feat": pooled}
    if not preact:
        del features["preact_feats"]
    return Output(logits, features)


def fill(module, seed=5):
    """Set all parameters of a module, in the order of their names, to normal numbers around 0.5."""
    parameters = sorted(module.named_parameters())
    with torch.no_grad():
        for (_, parameter), values in zip(parameters, random_maps([p.shape for _, p in parameters], seed), strict=True):
            parameter.copy_(0.5 + 0.3 * values)


def detached(output):
    """The output as a teacher's: without gradients."""
    maps = {name: [x.detach() for x in value] for name, value in output.features.items() if name != "pooled_feat"}
    return Output(output.logits.detach(), {**maps, "pooled_feat": output.features["pooled_feat"].detach()})


class NamedNorms(TinyModel):
    """A network that names batch norms of these channels, with weights and biases of either sign."""

    def __init__(self, channels):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels).double()
        for norm in self.norms:
            norm.weight.data, norm.bias.data = random_maps([(norm.num_features,)] * 2, seed=6)

    def get_bn_before_relu(self):
        return list(self.norms)


def set_up(name, student, teacher, **options):
    """A method in training mode, whose own layers are built from two outputs and filled."""
    norms = NamedNorms([maps.shape[1] for maps in teacher.features["feats"][1:]])
    distiller = create_distiller(name, TinyModel(seed=1), norms, **options)
    distiller.setup(detached(student), detached(teacher))
    for name, module in distiller.double().named_children():
        if name not in ("student", "teacher"):
            fill(module)
    return distiller.train()


def losses_of(distiller, student, teacher, epoch=20):
    """Components of a method that is set up."""
    labels = torch.arange(len(student.logits)) % CLASSES
    batch = Batch(torch.zeros(len(labels), 3, 1, 1), labels)
    return distiller.losses(student, detached(teacher), batch, Progress(epoch, 240))


def gradients(loss, output, name="feats"):
    """Gradients of a loss with respect to an output's maps, None for those that it does not use."""
    return torch.autograd.grad(loss, output.features[name], allow_unused=True)


def assert_upstreams(key, name, student_shapes, teacher_shapes, maps="feats", **options):
    """The second component and its gradients, in epoch 5, are those in ``tests/golden/adapters.npz``.

    They were computed by mdistiller's classes (snapshot a08d46f) in float64 (``FloatTensor`` replaced by its float64 form), for
    ``random_output`` with seed 0 for the student and 1 for the teacher, and the layers' parameters as ``set_up`` fills them.
    """
    student, teacher = random_output(student_shapes, 0), random_output(teacher_shapes, 1)
    loss = list(losses_of(set_up(name, student, teacher, **options), student, teacher, epoch=5).values())[1]
    with np.load(GOLDEN) as golden:
        close(loss.item(), golden[f"{key}/loss"].item(), 1e-10)
        for i, gradient in enumerate(gradients(loss, student, maps)):
            assert (gradient is None) == (f"{key}/gradient{i}" not in golden)
            if gradient is not None:
                close(gradient, torch.from_numpy(golden[f"{key}/gradient{i}"]), 1e-10)
