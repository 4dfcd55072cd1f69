"""Exceptions that a user can act on, and helpers for the text of messages.

``train.py``, ``eval.py`` and the modules with a command line print a :class:`UserError` as one line and exit with its status
(see ``command.py``); any other exception is a bug and keeps its traceback. Each class also derives from a built-in exception,
so that code in a notebook can catch what it expects.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import reprlib
import shlex
from collections.abc import Iterable
from pathlib import Path


class _OneLine(Exception):
    """Exception whose message is one printable line, whatever file contents and arguments it quotes."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class UserError(_OneLine):
    """Base class of errors whose message says what is wrong and how to fix it."""

    status = 2


class ConfigError(UserError, ValueError):
    """A setting, yaml file or combination of settings that cannot be used."""


class UnknownNameError(UserError, LookupError):
    """A name that is in no registry and no configuration tree."""


class MissingFileError(UserError, FileNotFoundError):
    """Data or a checkpoint that does not exist at the expected path."""


class CorruptFileError(UserError):
    """A file that exists but cannot be read, or does not fit."""


class TrainingError(UserError, RuntimeError):
    """Training that cannot continue, for example because a checkpoint cannot be written."""


class DivergedError(TrainingError):
    """Training whose loss is not finite: resumed from its checkpoint, it would meet the same again."""

    status = 3


class DataWorkerError(TrainingError):
    """Dataloader workers that died, hang, or cannot hand over a batch. Raised between two batches."""


class Stopped(Exception):
    """Training was interrupted on request, after its state was saved. Not an error: it has its own exit status."""

    status = 75  # EX_TEMPFAIL of sysexits.h: incomplete, try again


class Note(_OneLine, UserWarning):
    """One line of information for the user, issued with ``warnings.warn`` where no logger is available."""


class ConfigWarning(Note):
    """How settings in another project's dialect were interpreted, and settings that have no effect."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``"; did you mean 'DKD'?"`` for the closest of ``known``; an empty string if none has a similarity of ``cutoff``."""
    spelling, wanted = {k.lower(): k for k in known}, name.lower()
    near = difflib.get_close_matches(wanted, spelling, n=5, cutoff=cutoff)
    if not near:
        return ""

    def similarity(candidate: str) -> tuple[float, int]:
        """Ratio, then length of the common prefix: resnet21 suggests resnet20, not the equally similar resnet32."""
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(candidate, wanted, strict=False))
        return difflib.SequenceMatcher(None, candidate, wanted).ratio(), len(list(same))

    return f"; did you mean '{spelling[max(near, key=similarity)]}'?"


def listing(words: Iterable[str], separator: str = ", ", limit: int = 300) -> str:
    """Join words; beyond ``limit`` characters, the first ones and the number of those left out."""
    everything = list(words)
    ends = itertools.accumulate(len(word) + len(separator) for word in everything)
    fitting = max(sum(end <= limit + len(separator) for end in ends), 1)
    more = f" and {len(everything) - fitting} more" if len(everything) > fitting else ""
    return f"{separator.join(everything[:fitting])}{more}"


def shown(value: object) -> str:
    """``repr(value)``, abridged where it is long or deeply nested."""
    return _ABRIDGED.repr(value)


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Avoid Python's ValueError for the text of an integer with very many digits."""
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"a number of {x.bit_length():,} bits"


_ABRIDGED = _Repr()
_ABRIDGED.maxlevel = 2
_ABRIDGED.maxstring = _ABRIDGED.maxother = 120


def one_line(text: str) -> str:
    """Text as one line without terminal control sequences: non-printable characters escaped, the middle of long text cut."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 400]} ... {line[-395:]}"


_LONGEST = 2000  # characters of a message


def ascii_only(text: str) -> str:
    """The first 200 characters of text that was read from an untrusted file, all but printable ASCII replaced by ``?``."""
    return re.sub(r"[^ -~]", "?", text)[:200]


def from_here(path: str | os.PathLike[str]) -> str:
    """A path as a word of a shell command: relative to the working directory if it is inside, otherwise absolute."""
    path, here = Path(path).absolute(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
