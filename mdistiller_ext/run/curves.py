"""A run's history as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence


def draw_curves(history: Sequence[dict[str, float]], title: str) -> bytes:
    """PNG with accuracy, loss components and learning rate against the epoch, from the rows of ``metrics.csv``."""
    from matplotlib.figure import Figure  # imported here: it costs half a second, once a run

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    accuracy, loss, rate = figure.subplots(1, 3)
    figure.suptitle(title)
    marker = "o" if len(history) < 20 else ""

    for key, label in (("train_top1", "training (augmented)"), ("test_top1", "test"), ("test_top5", "test, top-5")):
        accuracy.plot(epochs, [row[key] for row in history], marker=marker, label=label)
    best = max(history, key=lambda row: row["test_top1"])
    accuracy.set_title(f"best {best['test_top1']:.2f} % in epoch {best['epoch']:.0f}, last {history[-1]['test_top1']:.2f} %")
    accuracy.set_ylabel("top-1 / %")
    accuracy.legend()

    components = [key for key in history[0] if "/" in key]
    for key in components:
        loss.plot(epochs, [row[key] for row in history], marker=marker, label=key)
    if len(components) > 1:
        loss.plot(epochs, [row["train_loss"] for row in history], color="black", label="sum")
    if all(row[key] > 0 for row in history for key in components):
        loss.set_yscale("log")
    loss.set_title("loss components (weighted)")
    loss.legend()

    rate.plot(epochs, [row["lr"] for row in history], marker=marker)
    if min(row["lr"] for row in history) > 0:
        rate.set_yscale("log")
    rate.set_title("learning rate")

    for axes in (accuracy, loss, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
