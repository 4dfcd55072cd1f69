"""Images on another device than the batches."""

from __future__ import annotations

import torch

from mdistiller_ext.data import InMemoryLoader


def test_the_device_of_the_data_and_of_the_batches_may_differ() -> None:
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    loader = InMemoryLoader(images, torch.arange(5), batch_size=2, mean=(0.5,) * 3, std=(0.5,) * 3, device="meta")
    assert [batch.device.type for batch, _ in loader] == ["meta"] * 3
    assert loader.images.device.type == "cpu"
