"""Gap between student and teacher."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mdistiller_ext.analyze.gap import gap, gaps
from mdistiller_ext.analyze.objective import Objective
from mdistiller_ext.analyze.predictions import class_means, without_class
from mdistiller_ext.analyze.runs import first_teacher, open_runs
from mdistiller_ext.errors import ConfigError
from tests.support.logits import close, random_logits


def test_the_teacher_is_no_distance_from_itself_and_of_another_scale_is_correlated() -> None:
    _, teacher, _ = random_logits(samples=50)
    found = gaps(teacher, teacher, [1, 4])
    assert found["agreement"].mean() == 100
    close(found["kl_t1"], torch.zeros(50, dtype=torch.float64))
    close(found["correlation"], torch.ones(50, dtype=torch.float64), 1e-8)
    scaled = gaps(4 * teacher + 2, teacher, [1, 4])
    close(scaled["correlation"], found["correlation"], 1e-8)
    assert scaled["kl_t1"].min() > 0


def test_known_values_of_two_classes() -> None:
    student, teacher = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[math.log(3), 0.0], [1.0, 0.0]])
    found = gaps(student, teacher, [1])
    assert found["agreement"].tolist() == [100, 0]
    assert float(found["kl_t1"][0]) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found["correlation"].tolist() == pytest.approx([0, -1])


def test_means_by_class_and_rows_without_a_class() -> None:
    values, labels = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]), torch.tensor([2, 0, 2])
    means = class_means(values, labels, 3)
    assert means[[0, 2]].tolist() == [[4, 5, 6], [4, 5, 6]]
    assert means[1].isnan().all()
    assert without_class(values, labels).tolist() == [[1, 2], [5, 6], [7, 8]]


def test_of_runs(trained: Path) -> None:
    groups = open_runs([trained])
    analysis = gap(groups, limit=40, temperatures=(2.0,))
    reference = first_teacher(groups)
    objective = Objective(reference.images("test", 40), reference.teacher())
    run = groups[1].runs[1]
    pairs = [(F.softmax(s / 2, 1), F.softmax(b.teacher_logits / 2, 1)) for b, s in objective.predictions(run.student())]
    (q, p) = (torch.cat(each) for each in zip(*pairs, strict=True))
    rows = [r for r in analysis.rows if (r["method"], r["seed"], r["part"]) == (groups[1].name, 1, "test")]
    assert sum(row["images"] for row in rows) == len(p) == 40
    mean = sum(row["images"] * row["kl_t2"] for row in rows) / 40
    assert mean == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    assert len(analysis.pictures) == 2
    with pytest.raises(ConfigError, match="positive"):
        gap(groups, temperatures=(0.0,))
