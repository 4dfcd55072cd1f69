"""Studies in this process, and a quick stand-in for ``train.py``."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdistiller_ext.study import __main__ as program
from tests.support.programs import ROOT, Finished, run_main

CFG = str(ROOT / "configs" / "glyphs" / "kd" / "res20_res8.yaml")

# What a study sees of train.py: arguments, files, signals, exit status, the last three by the name of the run.
TRAIN = """
import os, signal, sys, time
from pathlib import Path

words = sys.argv[sys.argv.index("--seed") + 2:]
given = dict(zip(words[::2], words[1::2]))
name = given["EXPERIMENT.NAME"]
folder = Path(given["LOG.PREFIX"], given["EXPERIMENT.PROJECT"], name)
folder.mkdir(parents=True, exist_ok=True)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1) if "deaf" not in name else None)
epochs = (folder / "epochs").read_text().split() if (folder / "epochs").exists() else []
with open(folder / "starts", "a") as file:
    file.write(f"{len(epochs)} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
print("teacher: 90 % top-1", flush=True)
mistake = not (folder.parent / "mended").exists()
if "fails" in name and mistake:
    print("error: no such teacher", file=sys.stderr)
    sys.exit(2)
if "diverges" in name:
    print("error: the loss is not finite", file=sys.stderr)
    sys.exit(3)
if "crashes" in name and mistake:
    raise RuntimeError("a bug")
if "killed" in name and mistake:
    os.kill(os.getpid(), signal.SIGKILL)
while len(epochs) < int(given["SOLVER.EPOCHS"]) and not (folder / "summary.json").exists():
    time.sleep(0.05)
    if stop:
        sys.exit(75)
    epochs.append(str(os.getpid()))
    (folder / "epochs").write_text(" ".join(epochs))
    rows = "".join(f"{number},{10 * number}.0\\n" for number in range(1, len(epochs) + 1))
    (folder / "metrics.csv").write_text(f"epoch,test_top1\\n{rows}")
(folder / "summary.json").write_text("{}")
"""


def run_study(*arguments: Any) -> Finished:
    """``python -m mdistiller_ext.study run`` in this process."""
    return run_main(program.main, "study", "run", *arguments)


def states(folder: Path) -> dict[str, str]:
    """State of each run by name."""
    return {run["name"]: run["state"] for run in entries(folder)}


def entries(folder: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((folder / "study.json").read_text())["runs"]
    return runs


def starts(run: Path) -> list[list[str]]:
    """Of each process of a run: the epoch where it went on, its id, its threads and its GPU."""
    return [line.split() for line in (run / "starts").read_text().splitlines()] if (run / "starts").exists() else []


def wait_until(there: Callable[[], object]) -> None:
    end = time.monotonic() + 240  # the processors may be shared
    while not there():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.005)


def when(there: Callable[[], object], then: Callable[[], object]) -> threading.Thread:
    """Do something as soon as a condition holds, while this thread runs a study."""

    def wait() -> None:
        wait_until(there)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def signal_this_process(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
