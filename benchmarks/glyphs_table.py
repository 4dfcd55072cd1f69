"""The README's table of accuracies: every method's recipe on glyphs, three seeds each, by running ``train.py``.

    python -m benchmarks.glyphs_table --amp bf16

Runs are one thread each, ``--jobs`` at a time, under ``output/glyphs_table``; finished ones are kept, so an interrupted
table goes on where it was. About two hours on 2 cores with bfloat16 instructions. Prints the table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from mdistiller_ext.config import differences, load_config
from mdistiller_ext.published import CONFIGS, method_name
from mdistiller_ext.run import run_folder

FOLDER = CONFIGS / "glyphs"
RECIPES = sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.glob("*/*8.yaml"))


def label(recipe: str) -> str:
    name = method_name(load_config(FOLDER / f"{recipe}.yaml"))
    return "student alone" if name == "NONE" else name.replace("+", " + ")


def summary_of(recipe: str, seed: int, amp: str) -> dict[str, Any]:
    """Train, unless that was done before with the same settings; the run's ``summary.json``."""
    path = f"configs/glyphs/{recipe}.yaml"
    overrides = ["LOG.PREFIX", "output/glyphs_table", "SOLVER.DEVICE", "cpu", "EXPERIMENT.SEED", str(seed)]
    overrides += ["SOLVER.AMP", amp]
    config = load_config(path, overrides)
    folder = run_folder(config)
    result = folder / "summary.json"
    if not result.is_file() or differences((folder / "config.yaml").read_text(), config.dump()):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "train.py", "--cfg", path, *overrides], env=environment, check=True)
    summary: dict[str, Any] = json.loads(result.read_text())
    return summary


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--amp", choices=("none", "bf16"), default="none")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, metavar="METHOD/NAME")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for a spread")
    arguments = parser.parse_args()

    work = [(recipe, seed) for seed in range(arguments.seeds) for recipe in arguments.recipes]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda item: summary_of(item[0], item[1], arguments.amp), work))
    teachers = {result["teacher_top1"] for result in results} - {None}
    if len(teachers) != 1:
        sys.exit(f"the runs under output/glyphs_table had different teachers ({teachers}); delete them and start again")
    print(
        f"\n{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}, a thread and a process a run, ",
        end="",
    )
    print(
        f"SOLVER.AMP {arguments.amp}, n = {arguments.seeds} seeds, mean ± standard deviation; teacher {teachers.pop():.2f} %\n"
    )
    print("| method | config | best top-1 | last top-1 | seconds |\n|---|---|---|---|---|")
    for recipe in arguments.recipes:
        runs = [result for (of, _), result in zip(work, results, strict=True) if of == recipe]
        name = label(recipe)
        best, last = ([run[key] for run in runs] for key in ("best_top1", "last_top1"))
        seconds = statistics.mean(run["seconds"] for run in runs)
        print(f"| {name} | `configs/glyphs/{recipe}.yaml` | {spread(best)} | {spread(last)} | {seconds:.0f} |")
        if "average_top1" in runs[0]:
            average = spread([run["average_top1"] for run in runs])
            epochs = runs[0]["average_epochs"]
            print(f"| {name}, average of the last {epochs} epochs | the same runs | | {average} | |")


if __name__ == "__main__":
    main()
