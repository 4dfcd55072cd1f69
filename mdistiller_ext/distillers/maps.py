"""Feature maps of student and teacher, checked and paired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from ..errors import ConfigError
from .outputs import Output

A = TypeVar("A")
B = TypeVar("B")
Pair = tuple[Tensor, Tensor]


def feature_maps(output: Output, role: str, name: str = "feats") -> list[Tensor]:
    """The maps ``[N, C, H, W]`` of an output, from the stem to the last stage.

    Args:
        role: ``student`` or ``teacher``, for messages.
        name: ``feats`` or ``preact_feats``.

    Raises ConfigError for features of other shapes, such as the tokens of a vision transformer.
    """
    maps = list(output.features[name])
    for index, features in enumerate(maps):
        if features.ndim != 4:
            raise ConfigError(
                f"the method reads feature maps [N, C, H, W], and {name}[{index}] of the {role} is {list(features.shape)}: "
                f"name other modules in DISTILLER.{role.upper()}_FEATURES, or choose another network"
            )
    return maps


def stage_pairs(student: Output, teacher: Output, *, least: int = 1) -> list[Pair]:
    """(student, teacher) maps of each stage: ``feats`` after the stem, in order.

    As in mdistiller, the first of ``feats`` counts as the stem also where it is a stage (ImageNet's MobileNetV1), and the last
    stages of the network with more of them are left out.

    Raises ConfigError if there are fewer than ``least`` pairs.
    """
    s, t = feature_maps(student, "student")[1:], feature_maps(teacher, "teacher")[1:]
    if min(len(s), len(t)) < least:
        raise ConfigError(
            f"the method compares at least {least} of the stages after the stem, feats[1:]; the student has {len(s)} and the "
            f"teacher {len(t)}: name more modules in DISTILLER.STUDENT_FEATURES and TEACHER_FEATURES, the stem first"
        )
    return list(zip(s, t, strict=False))


def last_pairs(first: Sequence[A], second: Sequence[B]) -> list[tuple[A, B]]:
    """Items paired from the last one backwards, in forward order; those without a partner are left out."""
    return list(zip(first[::-1], second[::-1], strict=False))[::-1]
