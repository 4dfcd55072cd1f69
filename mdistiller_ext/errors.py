"""Mistakes that the person at the keyboard can mend.

``train.py`` and ``eval.py`` print these as one line and exit with status 2; every other exception is a bug of ours and
keeps its traceback. Each class is also a built-in exception, so that code in a notebook can catch what it expects.
``Stopped`` is no mistake: it has an exit status of its own.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
import re
import reprlib
import select
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
"""The folder of the programs ``train.py`` and ``eval.py``, and of ``configs/``"""


class _OneLine(Exception):
    """Says what it has to say in one line, whatever files and users have put into that."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class UserError(_OneLine):
    """Base of all errors whose message says what is wrong and how to mend it."""


class ConfigError(UserError, ValueError):
    """A setting, yaml file or combination of settings that cannot be used."""


class UnknownNameError(UserError, LookupError):
    """A name that no registry or configuration tree knows."""


class MissingFileError(UserError, FileNotFoundError):
    """Data or a checkpoint that is not where it was looked for."""


class CorruptFileError(UserError):
    """A file that is there and cannot be read, or does not fit."""


class TrainingError(UserError, RuntimeError):
    """Training that cannot go on, such as a loss that is not finite."""


class DataWorkerError(TrainingError):
    """Dataloader workers that died, hang, or cannot hand over a batch. Raised between two batches."""


class Stopped(Exception):
    """Training that was asked to stop, and saved where it was."""

    status = 75  # EX_TEMPFAIL of sysexits.h: not done, try again


class Note(_OneLine, UserWarning):
    """What the person at the keyboard should know, in one line, where there is no logger."""


class ConfigWarning(Note):
    """What was understood of settings in another dialect, and settings that have no effect."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``"; did you mean 'DKD'?"`` for the nearest of ``known``, or an empty string when none is as similar as ``cutoff``."""
    spelling, wanted = {k.lower(): k for k in known}, name.lower()
    near = difflib.get_close_matches(wanted, spelling, n=5, cutoff=cutoff)
    if not near:
        return ""

    def similarity(candidate: str) -> tuple[float, int]:
        """Of equally similar names the one with the longer common beginning: resnet21 is rather resnet20 than resnet32."""
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(candidate, wanted, strict=False))
        return difflib.SequenceMatcher(None, candidate, wanted).ratio(), len(list(same))

    return f"; did you mean '{spelling[max(near, key=similarity)]}'?"


def listing(words: Iterable[str], separator: str = ", ", limit: int = 300) -> str:
    """The words joined; of more than ``limit`` characters the first ones and how many there are besides."""
    everything = list(words)
    ends = itertools.accumulate(len(word) + len(separator) for word in everything)
    fitting = max(sum(end <= limit + len(separator) for end in ends), 1)
    more = f" and {len(everything) - fitting} more" if len(everything) > fitting else ""
    return f"{separator.join(everything[:fitting])}{more}"


def shown(value: object) -> str:
    """A value as Python writes it, long or deeply nested ones abridged."""
    return _ABRIDGED.repr(value)


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write a whole number of very many digits."""
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"a number of {x.bit_length():,} bits"


_ABRIDGED = _Repr()
_ABRIDGED.maxlevel = 2
_ABRIDGED.maxstring = _ABRIDGED.maxother = 120


def one_line(text: str) -> str:
    """Text as one line that a terminal shows and does not obey: odd characters escaped, of a long text beginning and end."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 400]} ... {line[-395:]}"


_LONGEST = 2000  # characters of a message


def from_here(path: str | os.PathLike[str]) -> str:
    """A path as a word of a shell command in the working directory: relative to it if it is inside, else absolute."""
    path, here = Path(path).absolute(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def python_command(program: str, *arguments: str) -> str:
    """A shell command that runs ``train.py``, ``eval.py`` or a module, such as ``mdistiller_ext.download``, with this Python.

    It works in the working directory, wherever that is. ``arguments`` are words of the shell's (see :func:`from_here`).
    """
    name = Path(sys.executable).name
    words = [name if shutil.which(name) == sys.executable else from_here(sys.executable)]
    if program.endswith(".py"):
        words.append(from_here(ROOT / program))
    else:
        words += ["-m", program]
        if Path.cwd() != ROOT:  # -m looks for modules in the working directory
            words.insert(0, f"PYTHONPATH={from_here(ROOT)}")
    return " ".join([*words, *arguments])


class Parser(argparse.ArgumentParser):
    """Parse a program's arguments; what is wrong with them is a ConfigError."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if re.fullmatch(r"-\w--|--?[\w-]+=--", word):  # argparse drops that value, and gives an empty list (Python 3.11)
                self.error(f"{word}: -- is no value")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help lists the options")


def run_command(main: Callable[[], None]) -> None:
    """Run a program's ``main``: a UserError, or the machine's "no" (an OSError), is one line on stderr and exit status 2.

    Notes are lines of their own too, without the place in our code that Python adds. Training that was stopped and saved ends
    with the status of ``Stopped``. A program whose reader has gone, such as ``head``, ends without a word.

    Of several processes the first one says what is true of all, and the others say who they are.
    """
    show = warnings.showwarning
    process = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    of_process = f" in process {process}" if process != "0" else ""

    def show_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, Note):
            show(message, category, *place, **more)
        elif not (of_process and issubclass(category, ConfigWarning)):
            print(f"note{of_process}: {message}", file=sys.stderr)

    warnings.showwarning = show_line
    try:
        try:
            main()
        finally:
            print(end="", flush=True)  # now: nobody could catch what is raised by the flush at the interpreter's exit
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest, which is written at exit
            sys.exit(141)  # what a shell reports of a program ended by SIGPIPE
        print(f"error{of_process}: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        if not of_process:
            print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        sys.exit(130)  # what a shell reports of a program ended by Ctrl-C
    finally:
        warnings.showwarning = show


def _reader_is_gone() -> bool:
    """Whether the broken pipe is stdout, and not one to a worker or a server."""
    try:
        stdout = select.poll()
        stdout.register(sys.stdout.fileno(), select.POLLERR)
        return bool(stdout.poll(0))
    except (AttributeError, OSError):  # no poll on Windows, no such file in a notebook
        return False
