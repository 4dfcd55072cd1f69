"""An epoch trains on all images."""

from __future__ import annotations

import torch

from tests.support.trainers import make_trainer, weights


def test_every_epoch_that_is_run_trains_on_all_images(tiny: list[str]) -> None:
    run = make_trainer(tiny, "DISTILLER.TYPE", "KD")
    for epoch in (1, 2):
        before = weights(run)
        run.run_epoch()
        assert run.state.averages.count == run.train_loader.num_images
        assert not torch.equal(weights(run), before)
        assert (run.state.epoch, run.state.step, len(run.state.history)) == (epoch, 0, epoch)
