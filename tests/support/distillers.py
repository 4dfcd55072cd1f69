"""Small networks, batches and logits for tests of distillers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller_ext.distillers import Output, Progress, create_distiller

CLASSES = 10
IMAGE_SHAPE = (3, 2, 2)
NUM_IMAGES = 40  # of the training set that the index counts

COMPONENTS = {
    "NONE": ["task/ce"],
    "KD": ["task/ce", "target/tckd", "nontarget/nckd"],
    "LSKD": ["task/ce", "target/tckd", "nontarget/nckd"],
    "DKD": ["task/ce", "target/tckd", "nontarget/nckd"],
    "DEEPKD": ["task/ce", "target/tckd", "nontarget/nckd"],
    "GDKD": ["task/ce", "target/high", "nontarget/top", "nontarget/rest"],
    "GDKD3": ["task/ce", "target/high", "nontarget/top", "nontarget/rest"],
    "DIST": ["task/ce", "kd/inter", "kd/intra"],
    "PRKD": ["task/ce", "kd/kl", "kd/correlation"],
    "SIMKD": ["task/ce", "kd/feat"],
    "CATKD": ["task/ce", "kd/cat"],
    "RKD": ["task/ce", "kd/distance", "kd/angle"],
    "SP": ["task/ce", "kd/sp"],
    "PKT": ["task/ce", "kd/pkt"],
    "CRD": ["task/ce", "kd/nce"],
    "TTM": ["task/ce", "kd/ttm"],
    "WTTM": ["task/ce", "kd/wttm"],
    "MLKD": ["task/ce", "target/tckd", "nontarget/nckd", "kd/batch", "kd/class"],
    "CRLD": ["task/ce", "target/within", "target/cross", "nontarget/within", "nontarget/cross"],
    "AT": ["task/ce", "kd/attention"],
    "FITNET": ["task/ce", "kd/hint"],
    "NST": ["task/ce", "kd/nst"],
    "VID": ["task/ce", "kd/vid"],
    "KDSVD": ["task/ce", "kd/svd"],
    "OFD": ["task/ce", "kd/ofd"],
    "REVIEWKD": ["task/ce", "kd/hcl"],
}
# Parameters of the student that a method does not train: parts of classifiers that it does not use.
UNTRAINED = {"SIMKD": ("fc.", "simkd_head.classifier."), "CATKD": ("fc.bias",)}


class TinyModel(nn.Module):
    """A batch norm, a stem and three convolutional stages of 8, 8, 4 and 2 pixels, with the outputs of a zoo's network."""

    def __init__(self, classes=CLASSES, seed=0, widths=(4, 4, 8, 12)):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.norm = nn.BatchNorm1d(3 * 2 * 2)
            self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
            stages = zip((1, 2, 2), widths[:-1], widths[1:], strict=True)
            self.stages = nn.ModuleList(nn.Conv2d(i, o, 3, stride=stride, padding=1) for stride, i, o in stages)
            self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
            self.fc = nn.Linear(widths[-1], classes)
            with torch.no_grad():
                self.fc.weight.normal_(std=2)
                for norm in self.norms:
                    norm.bias.normal_(std=0.3)
        self.double()

    def get_bn_before_relu(self):
        return list(self.norms)

    def forward(self, images):
        x = self.norm(images.flatten(1)).view(len(images), 3, 2, 2)
        preact = [self.stem(F.interpolate(x, scale_factor=4))]
        for stage, norm in zip(self.stages, self.norms, strict=True):
            preact.append(norm(stage(preact[-1].relu())))
        feats = [each.relu() for each in preact]
        pooled = feats[-1].mean(dim=(2, 3))
        return self.fc(pooled), {"feats": feats, "preact_feats": preact, "pooled_feat": pooled}


def make_distiller(name, **hyper_parameters):
    """Method ``name`` between tiny networks in training mode, its own layers built."""
    torch.manual_seed(0)
    widths = (4, 4, 8, 12) if name == "KDSVD" else (4, 6, 8, 16)  # KDSVD compares maps of equally many channels
    distiller = create_distiller(name, TinyModel(seed=1), TinyModel(seed=2, widths=widths), **hyper_parameters)
    if distiller.needs_index:
        distiller.train_labels = torch.arange(NUM_IMAGES) % CLASSES
    distiller.prepare(IMAGE_SHAPE)
    return distiller


def make_batch(distiller=None, samples=16, seed=0):
    """Images and labels; for a method that asks for them, in several views and with the index."""
    generator = torch.Generator().manual_seed(seed)
    views = 1 if distiller is None else len(distiller.views)
    shape = (samples, *([views] if views > 1 else []), *IMAGE_SHAPE)
    images = 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1
    index = torch.randperm(NUM_IMAGES, generator=generator)[:samples]
    inputs = {"images": images, "labels": torch.arange(NUM_IMAGES)[index] % CLASSES}
    return inputs | ({"index": index} if distiller is not None and distiller.needs_index else {})


def run(distiller, *, epoch=1, samples=16):
    """The student's output and the components for a batch, in epoch ``epoch`` of 240."""
    return distiller(progress=Progress(epoch, 240), **make_batch(distiller, samples))


def make_logits(samples=16, classes=CLASSES, seed=0):
    """(student, teacher, labels) for what needs no modules."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (samples,), generator=generator)


def losses_of(name, student, teacher, labels, *, epoch=20, epochs=240, **hyper_parameters):
    distiller = make_distiller(name, **hyper_parameters)
    return distiller.losses(Output(student, {}), Output(teacher, {}), labels, Progress(epoch, epochs))


def close(actual, expected, tolerance=1e-11):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def sum_of(name, **options):
    student, teacher, labels = make_logits()
    return sum(losses_of(name, student, teacher, labels, **options).values())


def cross_entropy():
    student, _, labels = make_logits()
    return F.cross_entropy(student, labels)
