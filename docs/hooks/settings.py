"""The page of settings: every setting with its default and meaning, as the schema and the docstrings declare them."""

from __future__ import annotations

import inspect
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGE = "settings.md"
HEAD = """# Settings

Every setting with its default. Give them in the yaml file, or as `KEY VALUE` after the options of `train.py`: `SOLVER.LR 0.1`.
Those with a † may change when a run is resumed.
"""


def settings_page() -> str:
    """A table for each group: those of the schema, then those of the methods."""
    from mdistiller_ext.config.schema import GROUPS, all_settings
    from mdistiller_ext.registry import DISTILLERS, TRAINERS
    from mdistiller_ext.trainers import BaseTrainer

    text, settings = HEAD, all_settings()
    for group in [*GROUPS, *DISTILLERS]:
        of_group = {name: setting for name, setting in settings.items() if name.partition(".")[0] == group}
        if not of_group:
            continue
        text += f"\n## {group}\n\n"
        meanings = {}
        if group in DISTILLERS:
            method = DISTILLERS.get(group)
            text += f"[{method.__name__}][{method.__module__}.{method.__name__}]: {summary(method)}\n\n"
            keys = method.config_keys
            meanings = {keys.get(name, name.upper()): meaning for name, meaning in argument_meanings(method).items()}
        elif group == "SOLVER":
            meanings = {name.upper(): meaning for name, meaning in argument_meanings(BaseTrainer).items()}
            for trainer in TRAINERS:
                of_streams = argument_meanings(TRAINERS.get(trainer).streams)
                meanings |= {f"{trainer.upper()}.{name.upper()}": meaning for name, meaning in of_streams.items()}
        text += "| setting | default | meaning |\n|---|---|---|\n"
        for name, setting in of_group.items():
            meaning = setting.meaning or meanings.get(name.removeprefix(f"{group}."), "")
            default = f"`{setting.default}`" if setting.default != "" else ""
            text += f"| <code>{breakable(name)}</code>{' †' * setting.may_change} | {default} | {cell(meaning)} |\n"
    return text


def summary(documented: object) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def argument_meanings(documented: object) -> dict[str, str]:
    """The meanings of arguments, by name, that the section Args of a docstring gives."""
    section = (inspect.getdoc(documented) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    ([\w, ]+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def breakable(name: str) -> str:
    """A setting's name that may be broken after a dot or an underscore, for narrow screens."""
    return re.sub(r"([._])", r"\1<wbr>", name)


def cell(text: str) -> str:
    """Text that may stand in a table, without the roles of references."""
    return re.sub(r":(?:class|func|meth|mod):", "", text).replace("|", "\\|")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=settings_page()))
    return files
