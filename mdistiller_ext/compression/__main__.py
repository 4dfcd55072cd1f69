"""Compare students with their teachers: top-1, parameters, FLOPs, size, latency::

python -m mdistiller_ext.compression output/kd,res20,res8
python -m mdistiller_ext.compression output/my_study --batch-sizes 1 64 256
python -m mdistiller_ext.compression --cfg configs/glyphs/kd/res20_res8.yaml

With --cfg, networks have random weights, and there is no accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..command import Parser, run_command
from ..errors import ConfigError
from ..plugins import load_plugins

PROGRAM = "mdistiller_ext.compression"


def parse_arguments() -> argparse.Namespace:
    parser = Parser(prog=f"python -m {PROGRAM}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="*", type=Path, help="run folders, or folders that hold some")
    parser.add_argument(
        "--cfg", metavar="FILE", nargs="+", default=[], help="configurations, measured untrained, in place of RUN"
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder of the files; by default <first RUN>/compression")
    parser.add_argument("--device", default="auto", help="device to measure on (default: auto)")
    parser.add_argument("--rounds", type=int, default=20, help="timings of each network and batch size (default: 20; 0: none)")
    parser.add_argument("--batch-sizes", metavar="N", nargs="+", type=int, default=[1, 64], help="default: 1 64")
    parser.add_argument("--limit", type=int, default=0, help="number of test images (default: all of the run)")
    parser.add_argument("--student", choices=("last", "best"), default="last", help="epoch of the student (default: last)")
    parser.add_argument("--fold", action="store_true", help="fold batch norms into convolutions before latency is measured")
    parser.add_argument("--set", metavar="KEY VALUE", nargs="+", default=[], help="settings, such as DATASET.ROOT /data")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="as of train.py")
    arguments = parser.parse_args()
    if bool(arguments.runs) == bool(arguments.cfg):
        parser.error("name run folders, or configurations by --cfg")
    if min(arguments.batch_sizes) < 1 or arguments.rounds < 0 or arguments.limit < 0:
        raise ConfigError("--batch-sizes must be at least 1, --rounds and --limit at least 0")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    load_plugins(arguments.plugin)
    from ..acceleration import choose_device  # slow to import: it imports torch
    from .files import show, write_gains
    from .latency import Timing
    from .measure import gains_of_configs, gains_of_runs

    timing = Timing(choose_device(arguments.device), arguments.batch_sizes, arguments.rounds, arguments.fold)
    if arguments.cfg:
        gains = gains_of_configs(arguments.cfg, arguments.set, timing)
    else:
        gains = gains_of_runs(arguments.runs, arguments.set, timing, which=arguments.student, limit=arguments.limit)
    folder = arguments.out or (arguments.runs[0] / "compression" if arguments.runs else None)
    print(show(gains))
    if folder is not None:
        print("", *write_gains(gains, folder), sep="\n")


if __name__ == "__main__":
    run_command(main)
