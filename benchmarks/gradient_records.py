"""What ``SOLVER.RECORD`` costs: time of a training step with and without records, and memory of what they keep.

    python -m benchmarks.gradient_records

Trainers without records and with each kind of them take turns in one process, on given images: each call is ``--every`` steps,
of which the first is sampled, and times are per step. The memory is that of the state, which checkpoints hold too: the open
window, with the mean gradient of each role where ``gsnr`` is recorded, and what each finished window adds. The step is
``train.py``'s, on a GPU without the CUDA graph, which makes steps faster but not samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from torch import Tensor

from mdistiller_ext.data import InMemoryLoader
from mdistiller_ext.distillers.outputs import Batch
from mdistiller_ext.trainers import BaseTrainer
from mdistiller_ext.trainers.gradient_records import GradientRecords

from .common import (
    compare,
    hardware,
    our_loader,
    print_comparison,
    print_hardware,
    print_table,
    random_split,
    save,
    synchronize,
)
from .deepkd_step import networks, our_trainer

KINDS = {"without": [], "gsnr": ["gsnr"], "conflict": ["conflict"], "both": ["gsnr", "conflict"]}


def steps_of(trainer: BaseTrainer, loader: InMemoryLoader, every: int) -> Callable[[], None]:
    """As many steps as there are from one sample to the next, on the loader's first batch."""
    images, labels = next(iter(loader))
    batch = Batch(images, labels, sizes=[len(labels)])

    def steps() -> None:
        for step in range(every):
            if trainer.state.records is not None:
                trainer.state.records.observe(batch, step)
            trainer.train_step(images, labels)
        synchronize(trainer.device)

    return steps


def sizes(records: GradientRecords) -> dict[str, int]:
    """Bytes of the open window, and those that it takes once it is finished."""
    of_open = _bytes(records.state_dict()["open"])
    records.close()
    return {"open": of_open, "finished": _bytes(records.state_dict()["windows"])}


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--method", default="deepkd", help="folder of its recipe in configs/cifar100")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--every", type=int, default=20, help="SOLVER.RECORD_EVERY")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--amp", choices=("none", "bf16"), default="none")
    arguments = parser.parse_args()

    facts = hardware()
    print_hardware(facts)
    split = random_split(arguments.batch)
    loader = our_loader(split, training=False, batch_size=arguments.batch, device=arguments.device)
    pair = networks(arguments.student, arguments.teacher, loader)
    trainers = {}
    for name, kinds in KINDS.items():
        settings = {"SOLVER.AMP": arguments.amp, "SOLVER.RECORD": kinds, "SOLVER.RECORD_EVERY": arguments.every}
        settings["SOLVER.RECORD_WINDOW"] = arguments.rounds + 2  # the windows stay open
        trainers[name] = our_trainer(pair, loader, loader, settings, method=arguments.method)
    calls = {name: steps_of(trainer, loader, arguments.every) for name, trainer in trainers.items()}
    rows = compare(calls, arguments.rounds, per=arguments.every, after=dict.fromkeys(KINDS, "without"))
    print_comparison(rows, f"a step, a sample every {arguments.every}")
    memory = {name: sizes(trainer.state.records) for name, trainer in trainers.items() if trainer.state.records is not None}
    table = [[name, *(f"{size / 2**20:.3f}" for size in found.values())] for name, found in memory.items()]
    print_table(["MiB", "open window", "a finished window"], table)
    save(f"gradient_records_{arguments.amp}", facts, {**vars(arguments), "rows": rows, "bytes": memory})


if __name__ == "__main__":
    main()
