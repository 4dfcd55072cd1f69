"""Whether memory grows while a run trains: 50 epochs of 40 steps, tested, logged and saved at the end of each.

    python -m benchmarks.memory_growth

Each case is a run as ``train.py`` builds it, with a run folder, in a process of its own, on made images, small networks and
batches of 8. At the end of each epoch it notes the process's own memory (RssAnon: without files and shared libraries), what its
dataloader workers have written, which they do not share with it, and number and bytes of the tensors that Python refers to; on
a GPU also what torch has allocated there. The table shows them after 10, 50 and 100 % of the epochs, and the slope of a line
through those of the second half, with its standard error: what a run would grow by in 1,000 steps. Pages that malloc keeps or
returns move it by some hundred KB between epochs. Linux only. Takes about 4 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import Parameter

from mdistiller_ext.build import build_trainer
from mdistiller_ext.config import load_config
from mdistiller_ext.models import create_model

from .common import hardware, print_hardware, print_table, save

BATCH, STEPS = 8, 40  # of an epoch
IMAGES = BATCH * STEPS
FILES = ["DATASET.TYPE", "folder", "DATASET.IMAGE_SIZE", 64, "DISTILLER.STUDENT", "torchvision/squeezenet1_1"]
CASES: dict[str, list[Any]] = {
    "plain student": [],
    "KD": ["DISTILLER.TYPE", "KD"],
    "DeepKD": ["DISTILLER.TYPE", "DEEPKD", "SOLVER.TRAINER", "deepkd"],
    "DeepKD, bf16, gradient records": [
        *("DISTILLER.TYPE", "DEEPKD", "SOLVER.TRAINER", "deepkd", "SOLVER.AMP", "bf16"),
        *("SOLVER.RECORD", ["gsnr", "conflict"], "SOLVER.RECORD_EVERY", 5, "SOLVER.RECORD_WINDOW", 4),
    ],
    "KD, teacher's cache on disk": ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_CACHE", "disk"],
    "CRD": ["DISTILLER.TYPE", "CRD", "CRD.NCE.K", 256],
    "image files, no workers": [*FILES, "DATASET.NUM_WORKERS", 0],
    "image files, 2 workers": [*FILES, "DATASET.NUM_WORKERS", 2],
}


def make(folder: Path) -> None:
    """Write weights of a teacher, and image files of 10 classes in two splits."""
    torch.save({"model": create_model("resnet14", num_classes=100).state_dict()}, folder / "teacher")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        for split in ("train", "val"):
            path = folder / "images" / split / str(number % 10) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(80, 80, 3), dtype=np.uint8)).save(path)


def measure(case: str, folder: Path, epochs: int, device: str) -> list[dict[str, int]]:
    """A sample at the end of each epoch; meant to be all that a process does."""
    settings = [
        *("EXPERIMENT.SEED", 0, "DATASET.TYPE", "glyphs", "DATASET.LIMIT", IMAGES, "DATASET.TEST.BATCH_SIZE", 100),
        *("DISTILLER.TEACHER", "resnet14", "DISTILLER.TEACHER_CKPT", folder / "teacher", "DISTILLER.STUDENT", "resnet8"),
        *("SOLVER.EPOCHS", epochs, "SOLVER.BATCH_SIZE", BATCH, "SOLVER.LR", 0.001, "SOLVER.DEVICE", device),
        *("DISTILLER.TEACHER_CACHE_FOLDER", folder / "cache", *CASES[case]),
    ]
    root = folder / "images" if "folder" in CASES[case] else folder / "glyphs"
    config = load_config(None, [*map(str, settings), "DATASET.ROOT", str(root)])
    samples = []
    with contextlib.closing(build_trainer(config, folder / case)) as trainer:
        trainer.state.start_clock(0)
        for _ in range(epochs):
            trainer.run_epoch()
            samples.append(sample(trainer.device))
    return samples


def sample(device: torch.device) -> dict[str, int]:
    """Bytes of this process, of its workers and of tensors, and the number of tensors."""
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, Parameter) and thing.layout == torch.strided]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    workers = [worker.pid for worker in multiprocessing.active_children() if worker.pid is not None]
    return {
        "process": memory_of(os.getpid(), "status", "RssAnon:"),
        "workers": sum(memory_of(worker, "smaps_rollup", "Private_Dirty:") for worker in workers),
        "tensors": len(tensors),
        "tensor_bytes": sum(storages.values()),
        "device": torch.cuda.memory_allocated(device) if device.type == "cuda" else 0,
    }


def memory_of(process: int, file: str, entry: str) -> int:
    """Bytes of an entry of one of the system's files on a process."""
    content = Path(f"/proc/{process}/{file}").read_text(encoding="ascii")
    return int(content.partition(entry)[2].split()[0]) * 1024


def slope(values: Sequence[float]) -> tuple[float, float]:
    """Slope of a line through equidistant values, per value, and its standard error."""
    x = np.arange(len(values)) - (len(values) - 1) / 2
    rise = float(x @ np.asarray(values) / (x @ x))
    residuals = np.asarray(values) - np.mean(values) - rise * x
    return rise, float(np.sqrt(residuals @ residuals / max(len(values) - 2, 1) / (x @ x)))


def summary(samples: list[dict[str, int]]) -> dict[str, Any]:
    """For each quantity its values after 10, 50 and 100 % of the epochs, and its growth in 1,000 steps."""
    count, found = len(samples), {}
    for name in samples[0]:
        values = [entry[name] for entry in samples]
        rise, error = slope(values[(count - 1) // 2 :])
        at = {f"{percent} %": values[max(count * percent // 100, 1) - 1] for percent in (10, 50, 100)}
        found[name] = {**at, "per_1000_steps": 1000 / STEPS * rise, "standard_error": 1000 / STEPS * error}
    return found


def measure_apart(case: str, folder: Path, epochs: int, device: str) -> list[dict[str, int]]:
    """``measure`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory_growth", "--epochs", str(epochs), "--device", device]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [*command, "--case", case, "--folder", str(folder)], cwd=root, stdout=subprocess.PIPE, text=True, check=True
    )
    samples: list[dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.folder, arguments.epochs, arguments.device)))
        return

    facts = hardware()
    print_hardware(facts)
    found: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        for case in arguments.cases:
            samples = measure_apart(case, Path(name), arguments.epochs, arguments.device)
            found[case] = {"summary": summary(samples), "samples": samples}
            for what, values in found[case]["summary"].items():
                scale = 1 if what == "tensors" else 1e6
                if values["100 %"]:
                    numbers = [f"{values[key] / scale:.{0 if scale == 1 else 2}f}" for key in ("10 %", "50 %", "100 %")]
                    growth = [f"{values[key] / scale:.3f}" for key in ("per_1000_steps", "standard_error")]
                    rows.append([f"{case}: {what}", *numbers, *growth])
    print_table([f"{arguments.epochs} epochs, MB", "10 %", "50 %", "100 %", "in 1,000 steps", "+-"], rows)
    save("memory_growth", facts, {"epochs": arguments.epochs, "steps": arguments.epochs * STEPS, "cases": found})


if __name__ == "__main__":
    main()
