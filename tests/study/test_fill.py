"""Filling the teacher's caches of a study ahead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdistiller_ext.errors import ConfigError
from mdistiller_ext.study.fill import fill_caches
from mdistiller_ext.study.plan import plan_study
from tests.support.study import CFG


def test_the_cache_of_each_configuration_is_complete(
    glyphs_root: Path, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        *("DISTILLER.TEACHER_CACHE=disk", f"DISTILLER.TEACHER_CACHE_FOLDER={tmp_path / 'caches'}", "DATASET.LIMIT=20"),
        *("DISTILLER.TEACHER=resnet8", f"DISTILLER.TEACHER_CKPT={teacher_file}", f"DATASET.ROOT={glyphs_root}"),
    ]
    study = plan_study(None, [CFG], seeds=[0, 1], settings=[*settings, "DISTILLER.TEACHER_CACHE_DTYPE=float32,float16"])
    fill_caches(study)
    caches = sorted((tmp_path / "caches").iterdir())
    assert len(caches) == 2  # one for both seeds
    for cache in caches:
        assert np.load(cache / "logits.npy").shape == (20 * 81, 100)
        assert np.load(cache / "sums.npy").all()
    assert "1620/1620" in capsys.readouterr().err  # the progress
    assert not study.folder.exists()  # nothing has been run


def test_a_study_without_caches_has_nothing_to_fill(tmp_path: Path) -> None:
    for settings in (["DISTILLER.TEACHER_CACHE=memory"], ["DISTILLER.TEACHER_CACHE=disk", "DISTILLER.TYPE=NONE"]):
        with pytest.raises(ConfigError, match=r"set DISTILLER\.TEACHER_CACHE to disk"):
            fill_caches(plan_study(None, [CFG], settings=settings, out=str(tmp_path / "s")))
