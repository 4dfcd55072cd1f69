"""Fill the caches of the teachers' logits before the runs of a study use them."""

from __future__ import annotations

import contextlib

from ..build import build_trainer, caches_teacher
from ..errors import ConfigError
from ..teacher_cache import CachedTeacherLoader
from .plan import Study


def fill_caches(study: Study) -> None:
    """Run the teacher of each configuration on every view of its training images, unless its cache is complete.

    Raises ConfigError if no run of the study has a cache on disk.
    """
    runs = {(run.cfg, run.overrides): run for run in study.runs}.values()  # seeds share a cache
    cached = [run for run in runs if run.config.DISTILLER.TEACHER_CACHE == "disk" and caches_teacher(run.config)]
    if not cached:
        raise ConfigError("no run of the study has a cache to fill: set DISTILLER.TEACHER_CACHE to disk")
    for run in cached:
        with contextlib.closing(build_trainer(run.config)) as trainer:
            loader = trainer.train_loader
            assert isinstance(loader, CachedTeacherLoader)
            print(run.label or run.cfg, flush=True)
            loader.fill()
