"""Export the student of a run, and check that the file predicts as it does::

python -m mdistiller_ext.export output/glyphs/kd,res20,res8
python -m mdistiller_ext.export RUN --to safetensors --out deployed
python -m mdistiller_ext.export --check deployed/student.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..command import Parser, run_command
from ..errors import from_here
from ..plugins import load_plugins
from .description import beside, check
from .formats import FORMATS


def main() -> None:
    parser = Parser(
        prog="python -m mdistiller_ext.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="run folder (its student_best), or a file student_... in it")
    parser.add_argument("--to", metavar="FORMAT", default="onnx", help=f"{', '.join(FORMATS)} (default: onnx)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="folder of the files; by default RUN/export")
    parser.add_argument("--image-size", metavar="N", type=int, help="edge of the images in pixels; by default that of the run")
    parser.add_argument(
        "--opset", metavar="N", type=int, help="version of ONNX's operators; by default that of torch's exporter"
    )
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="your own models or data sets")
    parser.add_argument("--check", metavar="FILE", type=Path, help="only check that the description beside FILE is its own")
    arguments = parser.parse_args()
    if (arguments.run is None) == (arguments.check is None):
        parser.error("name a RUN, or a file with --check")
    if arguments.check is not None:
        description = check(arguments.check)
        print(f"{from_here(arguments.check)} is as exported: {description['architecture']} for {description['dataset']}")
        return
    load_plugins(arguments.plugin)
    export(arguments)


def export(arguments: argparse.Namespace) -> None:
    """Export a student; print what was written, measured, and how it is used."""
    from .exporting import BATCHES, export_student  # imports torch, which takes over a second

    exported = export_student(
        arguments.run,
        arguments.to,
        out=arguments.out,
        image_size=arguments.image_size,
        opset=arguments.opset,
        plugins=arguments.plugin,
    )
    about = exported.description
    size = about["input"]["shape"][2]
    print(f"{about['architecture']} ({about['weights']['file']}) as {about['format']}")
    print(f"{len(about['classes'])} classes of {about['dataset']}, images of {size}x{size}")
    for file in (exported.file, beside(exported.file)):
        print(f"{file.stat().st_size / 1000:10,.1f} kB  {from_here(file)}")
    *first, last = BATCHES
    print(f"opened again, in batches of {', '.join(map(str, first))} and {last}: logits of up to {exported.largest_logit:.3g}")
    print(f"differ from the student's by {about['largest_difference']:.1e} at most")
    print("\nElsewhere, in Python:\n")
    print("\n".join(exported.lines))


if __name__ == "__main__":
    run_command(main)
