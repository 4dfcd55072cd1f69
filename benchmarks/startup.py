"""Start-up: wall time and peak memory of commands that compute nothing, and of a run up to the end of its first training step.

Each command is a process of its own, started in the folder of the checkout; a first start, which writes byte code and caches,
is not counted. A plug-in ends the run after its first step, so that its time is that from the command to this step; before
it, the teacher is evaluated on the test images. With ``--against``, both checkouts take turns.

    python -m benchmarks.startup
    python -m benchmarks.startup --against ../before --rounds 7
    python -m benchmarks.startup --commands run --cfg configs/cifar100/kd/res56_res20.yaml DATASET.ROOT ~/data

Takes a minute, with ``--against`` three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .common import compare, hardware, print_hardware, print_table, save, spread

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "train --help": ["train.py", "--help"],
    "train --list": ["train.py", "--list"],
    "eval --help": ["eval.py", "--help"],
    "published": ["-m", "mdistiller_ext.published", "--dataset", "cifar100"],
    "study --help": ["-m", "mdistiller_ext.study", "--help"],
}
# A plug-in: the process ends where the first step has ended.
END_AFTER_STEP = """
import os
from mdistiller_ext.optim import ComponentSGD

step = ComponentSGD.step

def step_and_exit(*arguments, **options):
    step(*arguments, **options)
    os._exit(0)

ComponentSGD.step = step_and_exit
"""
# A small process starts the command: the peak memory of a child begins with that of its parent, and this one has torch.
MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]))
"""


class Clock:
    """Runs commands and sums up their wall times, in seconds; ``peaks`` are their peak memories, in MB."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peaks: dict[str, list[float]] = {}

    def read(self) -> float:
        return self.seconds

    def command(self, name: str, checkout: Path, words: Sequence[str]) -> Callable[[], None]:
        """A function that runs a command of a checkout once."""

        def run() -> None:
            command = [sys.executable, "-S", "-c", MEASURE, sys.executable, *words]
            done = subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
            seconds, kilobytes, status = json.loads(done.stdout)
            if status:
                raise SystemExit(f"{' '.join(words)} ended with status {status}")
            self.seconds += seconds
            self.peaks.setdefault(name, []).append(kilobytes / 1000)

        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commands", nargs="+", choices=[*COMMANDS, "run"], default=[*COMMANDS, "run"])
    parser.add_argument("--cfg", type=Path, default=ROOT / "configs/glyphs/deepkd/res20_res8.yaml", help="of the run")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings of the run")
    arguments = parser.parse_intermixed_args()

    facts = hardware()
    print_hardware(facts)
    checkouts = {"before": arguments.against, "now": ROOT} if arguments.against else {"now": ROOT}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder, "end_after_step.py")
        plugin.write_text(END_AFTER_STEP, encoding="utf-8")
        run = [
            "train.py",
            "--plugin",
            str(plugin),
            "--cfg",
            str(arguments.cfg.absolute()),
            "LOG.PREFIX",
            folder,
            *arguments.opts,
        ]
        for command in arguments.commands:
            clock, words = Clock(), COMMANDS.get(command, run)
            variants = {name: clock.command(name, checkout, words) for name, checkout in checkouts.items()}
            for row in compare(variants, arguments.rounds, clock=clock.read):
                peak = spread(clock.peaks[row["variant"]][1:])
                rows.append({"command": command, "peak_mb": peak, **row})
    header = ["", "checkout", "seconds", "min", "max", "times as fast", "peak MB", "n"]
    cells = [
        [
            row["command"],
            row["variant"],
            *(f"{row['seconds'][key]:.3f}" for key in ("median", "min", "max")),
            f"{row['ratio']['median']:.1f}",
            f"{row['peak_mb']['median']:.0f}",
            str(row["seconds"]["n"]),
        ]
        for row in rows
    ]
    print_table(header, cells)
    data = arguments.cfg.absolute().parts[-3]
    save(
        "startup" if data == "glyphs" else f"startup_{data}",
        facts,
        {"config": arguments.cfg.name, "settings": arguments.opts, "rows": rows},
    )


if __name__ == "__main__":
    main()
