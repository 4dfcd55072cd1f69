"""Command-line programs: argument parsing, and how errors, notes and interruptions end a process."""

from __future__ import annotations

import argparse
import os
import re
import select
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from .errors import ConfigError, ConfigWarning, Note, Stopped, UserError, one_line
from .project import SCRIPT


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ConfigError for invalid arguments; name and description are :func:`as_started`."""

    def __init__(self, *, prog: str | None = None, description: str | None = None, **options: Any) -> None:
        super().__init__(prog=prog and as_started(prog), description=description and as_started(description), **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but a value ``--``, which argparse drops, is an error."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if re.fullmatch(r"-\w--|--?[\w-]+=--", word):  # argparse drops that value and returns an empty list (Python 3.11)
                self.error(f"{word}: -- is no value")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError, where argparse prints the usage and exits."""
        raise ConfigError(f"{message}; {self.prog} --help lists the options")


def as_started(text: str) -> str:
    """Text with ``python train.py`` or ``python -m mdistiller_ext.study`` as the console script that was started, if it was."""
    if not sys.argv[0].startswith(f"{SCRIPT} "):
        return text
    text = re.sub(r"\bpython (?:-m mdistiller_ext\.(\w+)|(\w+)\.py)", lambda match: f"{SCRIPT} {match[1] or match[2]}", text)
    return re.sub(r"^(torchrun .*?)\b(\w+)\.py", r"\1-m mdistiller_ext.\2", text, flags=re.MULTILINE)


def run_command(main: Callable[[], None]) -> None:
    """Run a program's ``main``; print a UserError or an OSError as one line on stderr and exit with its status, or 2.

    A Note is printed as one line, without the source location that Python adds. Training that was stopped and saved exits
    with ``Stopped.status``. If the reader of stdout has closed the pipe (``| head``), exit silently.

    With several processes, only rank 0 prints a ConfigWarning or Stopped; any other line of another rank names the rank.
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
            print(end="", flush=True)  # flush here: an error of the flush at interpreter exit cannot be caught
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
            sys.exit(141)  # as a shell reports a program ended by SIGPIPE
        print(f"error{of_process}: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, UserError) else 2)
    except Stopped as stop:
        if not of_process:
            print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports a program ended by Ctrl-C
    finally:
        warnings.showwarning = show


def print_markdown(text: str) -> None:
    """Print Markdown, with paragraphs and the cells of tables wrapped to the terminal's width, or to 80 columns."""
    from rich.console import Console  # slow to import
    from rich.markdown import Markdown

    Console(highlight=False).print(Markdown(text))


def _reader_is_gone() -> bool:
    """Whether the broken pipe is stdout, rather than a pipe to a dataloader worker or a server."""
    try:
        stdout = select.poll()
        stdout.register(sys.stdout.fileno(), select.POLLERR)
        return bool(stdout.poll(0))
    except (AttributeError, OSError):  # no poll on Windows, no file descriptor in a notebook
        return False
