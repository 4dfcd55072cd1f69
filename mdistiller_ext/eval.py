"""Evaluate a network on a test set, with mdistiller's flags::

python eval.py -c output/glyphs/deepkd,res20,res8                    # a run folder: its best student
python eval.py -m resnet8x4 -c path/to/student_best -d cifar100      # a checkpoint
python eval.py -m resnet20 -c pretrain -d glyphs                     # a teacher, from its default path
python eval.py -c output/glyphs/deepkd,res20,res8 --report report    # and what it gets right and wrong, as report/report.html
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from .command import Parser, run_command
from .errors import ConfigError, MissingFileError, Note
from .models import check_model_name
from .plugins import load_plugin


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="architecture; by default the student of the run folder")
    parser.add_argument("-c", "--ckpt", default="pretrain", help="checkpoint, run folder, or 'pretrain' for the teacher's")
    parser.add_argument("-d", "--dataset", help="data set; the run's or cifar100 by default")
    parser.add_argument("-bs", "--batch-size", type=int, help="images at a time; the run's or 64 by default")
    parser.add_argument("--report", metavar="FOLDER", type=Path, help="write accuracy by class, confusions and mistakes there")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="your own models or data sets")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings, such as DATASET.ROOT /data DATASET.LIMIT 1000")
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parse_arguments()
    for plugin in arguments.plugin:
        load_plugin(plugin)
    evaluate_network(arguments)


def evaluate_network(arguments: argparse.Namespace) -> None:
    """Build the network, load its weights, and print its accuracies."""
    # Imported here, since they import torch, which takes over a second: --help answers without it.
    import torch

    from .acceleration import choose_device
    from .build import build_model, build_plain_loader, build_student
    from .config import load_config
    from .distributed import group, local_rank_zero_first, rank
    from .evaluate import evaluate, try_images
    from .weight_files import teacher_path
    from .weights import load_weights

    weights = Path(arguments.ckpt)
    if arguments.ckpt != "pretrain" and not weights.exists():
        raise MissingFileError(f"checkpoint not found: {weights.absolute()}")
    run_config = (weights if weights.is_dir() else weights.parent) / "config.yaml"
    of_run = arguments.ckpt != "pretrain" and run_config.is_file()
    settings = list(arguments.opts)
    if arguments.dataset:
        settings += ["DATASET.TYPE", arguments.dataset]
    if arguments.batch_size is not None:
        settings += ["DATASET.TEST.BATCH_SIZE", arguments.batch_size]
    config = load_config(run_config if of_run else None, settings, for_evaluation=True)
    dataset = config.DATASET.TYPE
    name = arguments.model or (config.DISTILLER.STUDENT if of_run else None)
    if name is None:
        raise ConfigError("which architecture? Name it with -m, such as -m resnet8x4; a run folder (-c) records it")
    check_model_name(name, dataset)

    with group():
        device = choose_device(config.SOLVER.DEVICE)
        with local_rank_zero_first():  # weights and data may be downloaded
            if arguments.ckpt == "pretrain":
                weights = teacher_path(name, dataset, config.DISTILLER.TEACHER_CKPT, config.DATASET.ROOT)
            loader = build_plain_loader(config, device, with_index=arguments.report is not None)
        if of_run and name == config.DISTILLER.STUDENT:  # with DISTILLER.STUDENT_FEATURES, which SimKD's head reads
            model = build_student(config, loader)
        else:
            model = build_model(name, loader, dataset=dataset)
        try_images(model, torch.zeros(2, *loader.image_shape))
        trained_on = load_weights(model, weights, data=loader.identity)
        observer = None
        if arguments.report is not None:
            from .inspection import observe, write_report

            observer = observe(arguments.report, loader, run_config if of_run else None, settings)
        result = evaluate(model.to(device), loader, observer)
        parameters = sum(p.numel() for p in model.parameters())
        if rank() == 0:
            if trained_on is not None and loader.identity is not None:
                for change in trained_on.split_changes(loader.identity, "test"):
                    warnings.warn(f"{weights} was trained with another test set: {change}", Note, stacklevel=2)
            print(f"{name} ({parameters:,} parameters) from {weights} on the {loader.num_images:,} test images of {dataset}:")
            print(f"top-1 {result['top1']:.2f} %  top-5 {result['top5']:.2f} %  loss {result['loss']:.4f}")
        if observer is not None:
            about = f"{name} ({parameters:,} parameters) from {weights}"
            for path in write_report(arguments.report, observer, result, title=f"{name} on {dataset}", about=about):
                print(path)


if __name__ == "__main__":
    run_command(main)
