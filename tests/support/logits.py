"""Random logits, masks and slow reference losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

SAMPLES, CLASSES = 8, 12


def random_logits(seed=0, *, samples=SAMPLES, classes=CLASSES, scale=3.0, dtype=torch.float64):
    """(student, teacher, labels); half of the labels are the teacher's first choice, as in practice."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)).to(dtype)
    labels = torch.randint(classes, (samples,), generator=generator)
    labels[::2] = teacher.argmax(dim=1)[::2]
    return student, teacher, labels


def random_mask(seed=0, *, samples=SAMPLES, classes=CLASSES):
    """Random subsets of the classes, among them everything and nothing."""
    mask = torch.rand(samples, classes, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[0], mask[1] = True, False
    return mask


def kl_rows(student, teacher, temperature):
    """T^2 KL(teacher || student) per sample by torch's own function."""
    log_q, log_p = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def kl_of_kept_classes(student, teacher, keep, temperature):
    """The same after dropping the columns that ``keep`` leaves out, one sample at a time."""
    rows = [kl_rows(s[k][None], t[k][None], temperature) for s, t, k in zip(student, teacher, keep, strict=True)]
    return torch.cat(rows)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
