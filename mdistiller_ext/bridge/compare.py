"""Compare a checkout's methods with ours: same weights, same batches; differences in float64, times in float32."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..command import Parser, print_markdown
from ..config.reading import flatten
from ..errors import ConfigError, UserError, listing
from ..registry import DISTILLERS, TRAINERS
from .cases import Case, our_config, pairwise, their_cfg
from .checkout import Checkout, load_checkout
from .known import Known, known_difference
from .settings import PREFIX
from .sides import Batches, Ours, Theirs

_SHOWN = (1, 2, 5, 10, 20)
_SAME_TRAINERS = {"crd": "base", "aug": "base", "crld": "base", "ours": "base", "crd_dot": "dot", "deepkd_aug": "deepkd"}


@dataclass
class Result:
    """The comparison of a case.

    Attributes:
        differences: largest difference of a weight of the student, relative to the largest distance that one has moved.
        with_option: the same with ``known``'s way to agree.
        theirs, ours, ratio: milliseconds of a step of each; ours by theirs: median, and quartiles.
        notes: what could not be done alike.
    """

    case: Case
    trainer: str
    differences: dict[int, float]
    known: Known | None = None
    with_option: dict[int, float] = field(default_factory=dict)
    theirs: float = 0.0
    ours: float = 0.0
    ratio: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: list[str] = field(default_factory=list)


def compare(case: Case, *, steps: int = 20, pairs: int = 15) -> Result:
    """Compare a method. Raises ConfigError for a method that one of both does not have, or cannot run with these networks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their code, about old calls
        config = our_config(case)
        known = known_difference(config.DISTILLER.TYPE, config.SOLVER.TRAINER)
        chosen = flatten(config)
        if known is not None and known.settings and all(chosen[k] == v for k, v in pairwise(known.settings)):
            known = known._replace(text=f"{known.text}: these settings mean upstream's way", settings=())
        result = Result(case, config.SOLVER.TRAINER, {}, known)
        result.differences = _differences(case, steps, result)
        if known is not None and (known.settings or known.probe_in_eval):
            result.with_option = _differences(case, steps, Result(case, "", {}), known.settings, known.probe_in_eval)
        if pairs:
            _time(case, pairs, result)
    return result


def _differences(
    case: Case, steps: int, result: Result, settings: Sequence[str] = (), probe_in_eval: bool = False
) -> dict[int, float]:
    theirs, ours = _sides(case, steps, torch.float64, result, settings, probe_in_eval)
    start, found = _weights(theirs.student), {}
    for step in range(1, steps + 1):
        theirs.step(step - 1)
        ours.step(step - 1)
        if step in _SHOWN or step == steps:
            a, b = _weights(theirs.student), _weights(ours.student)
            found[step] = float((a - b).abs().max() / (a - start).abs().max())
    return found


def _sides(
    case: Case,
    steps: int,
    dtype: torch.dtype,
    result: Result,
    settings: Sequence[str] = (),
    probe_in_eval: bool = False,
) -> tuple[Theirs, Ours]:
    """Both sides, before their first step."""
    batches = Batches(case, steps, dtype)
    theirs = Theirs(case, batches, dtype, probe_in_eval=probe_in_eval)
    ours = Ours(case, batches, dtype, theirs, settings)
    if ours.unmatched:
        result.notes.append(ours.unmatched)
    views = max(1, len([name for name in theirs.takes if name.startswith("image_")]))
    if views != len(ours.distiller.views):
        result.notes.append(f"another method: theirs takes {views} view of an image, ours {len(ours.distiller.views)}")
    try:
        Theirs(case, batches, dtype, probe_in_eval=probe_in_eval).step(0)
    except Exception as error:  # DeepKD's trainer for CRLD names views that its CRLD does not have
        if theirs.cfg.SOLVER.get("TRAINER", "base") in ("dot", "crd_dot", "deepkd", "deepkd_aug"):
            raise
        theirs = Theirs(case, batches, dtype, probe_in_eval=probe_in_eval, driven=False)
        result.notes.append(f"their trainer cannot be run ({type(error).__name__}: {error}): their optimizer alone")
    return theirs, ours


def _weights(student: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in student.parameters()])


def _time(case: Case, pairs: int, result: Result) -> None:
    """Time steps of both in float32, in turn, each pair beginning with the other side than the one before."""
    theirs, ours = _sides(case, pairs + 2, torch.float32, Result(case, "", {}))
    seconds: dict[Any, list[float]] = {theirs: [], ours: []}
    for number in range(pairs + 2):
        for side in (theirs, ours) if number % 2 else (ours, theirs):
            started = time.perf_counter()
            side.step(number)
            seconds[side].append(time.perf_counter() - started)
    kept = {side: values[2:] for side, values in seconds.items()}  # the first steps allocate memory
    ratios = [b / a for a, b in zip(kept[theirs], kept[ours], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    result.ratio = (low, middle, high)
    result.theirs, result.ours = (1000 * statistics.median(kept[side]) for side in (theirs, ours))


# ---- the command --------------------------------------------------------------------------------------------------


def cases(checkout: Checkout, student: str, teacher: str, settings: Sequence[str], batch_size: int) -> list[Case]:
    """A case for every method that both have, with the trainer that gives it what it needs, and DOT for KD and DKD."""
    found = []
    for method in checkout.methods:
        if method not in DISTILLERS or method.startswith(PREFIX):
            continue
        preferred = {"CRD": ("crd",), "MLKD": ("aug", "ours"), "CRLD": ("crld",)}.get(method, ())
        natural = next((name for name in preferred if name in checkout.trainers), "base")
        dot = ["dot"] if method in ("KD", "DKD") and "dot" in checkout.trainers else []
        found += [Case(checkout, method, name, student, teacher, None, settings, batch_size) for name in (natural, *dot)]
    return found


def describe(result: Result) -> str:
    """A comparison in lines."""
    case, known = result.case, result.known
    lines = [f"{case.method}, trainer {case.trainer} (ours: {result.trainer}), {case.student} taught by {case.teacher}"]
    lines.append(f"  largest difference of a weight / path, by step: {_by_step(result.differences)}")
    if known is not None:
        lines.append(f"  on purpose: {known.text}")
    if known is not None and result.with_option:
        lines.append(f"    {_option(known)}: {_by_step(result.with_option)}")
    lines += [f"  {note}" for note in result.notes]
    if result.theirs:
        low, middle, high = result.ratio
        lines.append(
            f"  a step in float32: theirs {result.theirs:.0f} ms, ours {result.ours:.0f} ms; ours / theirs {middle:.2f} "
            f"(quartiles {low:.2f} to {high:.2f})"
        )
    return "\n".join(lines)


def table(results: Sequence[Result]) -> str:
    """Comparisons as a Markdown table."""
    lines = ["| method | trainer | step 1 | step 20 | upstream's way: step 20 | ours / theirs | on purpose |", "|" + "---|" * 7]
    for result in results:
        known, last = result.known, max(result.differences)
        low, middle, high = result.ratio
        cells = [result.case.method, result.case.trainer, f"{result.differences[1]:.0e}", f"{result.differences[last]:.0e}"]
        cells.append(f"{result.with_option[last]:.0e} ({_option(known)})" if known is not None and result.with_option else "")
        cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})" if result.theirs else "")
        cells.append("; ".join([*([known.text] if known is not None else []), *result.notes]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_step(differences: dict[int, float]) -> str:
    return ", ".join(f"{step}: {value:.1e}" for step, value in differences.items())


def _option(known: Known) -> str:
    pairs = [f"{key} {value}" for key, value in pairwise(known.settings)]
    return ", ".join([*pairs, *(["theirs probed in eval mode"] if known.probe_in_eval else [])])


def main(words: Sequence[str]) -> None:
    """``compare FOLDER --cfg FILE`` or ``compare FOLDER --all``."""
    parser = Parser(prog="python -m mdistiller_ext.bridge compare", description=__doc__)
    parser.add_argument("folder", help="a checkout of mdistiller or a fork")
    parser.add_argument("--cfg", metavar="FILE", help="yaml file of the checkout or of this project")
    parser.add_argument(
        "--all", action="store_true", help="every method that both have, with its defaults, as a Markdown table"
    )
    parser.add_argument("--student", help="network for 32x32 images; the file's, or resnet8 with --all")
    parser.add_argument("--teacher", help="network for 32x32 images; the file's, or resnet20 with --all")
    parser.add_argument("--steps", type=int, default=20, help="steps in float64")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of timed steps in float32; 0: none")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings over the file's")
    arguments = parser.parse_intermixed_args(list(words))
    checkout = load_checkout(arguments.folder)
    _check(arguments)
    if arguments.all:
        student, teacher = arguments.student or "resnet8", arguments.teacher or "resnet20"
        results = []
        for case in cases(checkout, student, teacher, arguments.opts, arguments.batch_size):
            try:
                results.append(compare(case, steps=arguments.steps, pairs=arguments.pairs))
                print(describe(results[-1]), flush=True)
            except UserError as error:
                print(f"{case.method}: {error}", flush=True)
        print(f"\n{checkout.root.name}, {student} taught by {teacher}, batches of {arguments.batch_size}, {_machine()}\n")
        print_markdown(table(results))
        return
    result = compare(_case(checkout, arguments), steps=arguments.steps, pairs=arguments.pairs)
    print(describe(result))
    print(f"  {_machine()}")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.all == (arguments.cfg is not None):
        raise ConfigError("compare FOLDER --cfg FILE, or compare FOLDER --all: one of both")
    if arguments.steps < 1 or arguments.batch_size < 2 or arguments.pairs < 0:
        raise ConfigError("--steps must be at least 1, --batch-size at least 2, --pairs at least 0")
    if len(arguments.opts) % 2:
        raise ConfigError(f"overrides come in pairs, KEY VALUE; '{arguments.opts[-1]}' has no partner")


def _case(checkout: Checkout, arguments: argparse.Namespace) -> Case:
    """The case of a yaml file. Raises ConfigError for a method that one of both does not have."""
    blank = Case(checkout, "KD", "base", "", "", arguments.cfg, arguments.opts, arguments.batch_size, derive=False)
    theirs = their_cfg(replace(blank, method="", trainer=""), keep=True)
    method, trainer = theirs.DISTILLER.TYPE, theirs.SOLVER.get("TRAINER", "base")
    if method not in checkout.methods or method not in DISTILLERS:
        missing = "here" if method in checkout.methods else f"in {checkout.root}"
        both = listing(name for name in checkout.methods if name in DISTILLERS)
        raise ConfigError(f"{method} is not a method {missing}; both have {both}")
    if trainer not in TRAINERS and _SAME_TRAINERS.get(trainer) is None:
        raise ConfigError(f"SOLVER.TRAINER {trainer} is not a trainer here")
    student, teacher = arguments.student or theirs.DISTILLER.STUDENT, arguments.teacher or theirs.DISTILLER.TEACHER
    other = bool(arguments.student or arguments.teacher)
    return replace(blank, method=method, trainer=trainer, student=student, teacher=teacher, derive=other)


def _machine() -> str:
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
