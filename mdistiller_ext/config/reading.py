"""Read yaml: a file and the files that its ``_BASE_`` names, as settings by dotted names, unchecked."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, listing, shown
from ..project import CONFIGS, config_word, find_file

_MAX_SETTINGS = 10_000  # of one file: a short one of nested aliases can expand to billions
_MAX_FILES = 100  # through _BASE_, each counted as often as it is named: their number may double from file to file
_MAX_KEY_LENGTH = 200  # characters


def written_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a yaml file and those that its ``_BASE_`` names set, by dotted names, unchecked. Raises ConfigError."""
    return {key: value for _, settings, _ in read_files(Path(path)) for key, value in settings.items()}


def read_files(path: Path) -> Iterator[tuple[Path, dict[str, Any], bool]]:
    """Yield a yaml file (see :func:`find_file`) after those that its ``_BASE_`` names.

    Each as path, settings by dotted names, and whether it may be a complete file of upstream.
    """
    return _read_files(find_file(path), itertools.count(), ())


def _read_files(path: Path, count: Iterator[int], children: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any], bool]]:
    """As :func:`read_files`; ``count`` counts the files, ``children`` are those that led to this one."""
    # The functions of os.path return False for text that cannot be a path; those of pathlib raise.
    if os.path.isdir(path):
        raise ConfigError(f"the config file {path} is a folder{_files_in(path)}")
    if not os.path.isfile(path):
        raise ConfigError(f"config file not found: {path}{_nearest_file(path)}")
    if path.resolve() in children:
        raise ConfigError(f"{path}: _BASE_ leads back to itself")
    if next(count) > _MAX_FILES:
        raise ConfigError(f"{path}: more than {_MAX_FILES} files through _BASE_")
    try:
        text = path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not readable yaml: {error}") from error
    settings = read_settings(text, str(path))
    bases = settings.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"_BASE_ in {path} must be a file name or a list of them, not {shown(bases)}")
    for base in bases:
        if not base:
            raise ConfigError(f"_BASE_ in {path} is empty")
        beside = path.parent / base
        found = find_file(base)  # in the working directory or among the project's
        chosen = found if os.path.isfile(found) and not os.path.isfile(beside) else beside
        yield from _read_files(chosen, count, (*children, path.resolve()))
    # Files of upstream have neither bases nor EXPERIMENT.SEED, which config.yaml of every run has.
    yield path, settings, not bases and "EXPERIMENT.SEED" not in settings


def read_settings(text: str, name: str) -> dict[str, Any]:
    """Return the settings of a yaml text by dotted names. Raises ConfigError, with ``name``, for any other text."""
    try:
        content = yaml.load(text, StrictLoader)
    except Exception as error:  # yaml raises many types of exception for a value that does not fit its tag
        raise ConfigError(f"{name} is not readable yaml: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{name} must hold settings, KEY: value, not a {type(content).__name__}")
    return flatten_strictly(content, name)


def flatten_strictly(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of a tree by dotted names. Raises ConfigError, with ``name``, for one that stands twice in it."""
    settings: dict[str, Any] = {}
    try:
        for count, (key, value) in enumerate(_nodes(tree)):
            if count >= _MAX_SETTINGS:
                raise ConfigError(f"{name} has more than {_MAX_SETTINGS:,} settings")
            if key in settings:  # once as SOLVER.LR, once as LR in SOLVER
                raise ConfigError(f"{name} is ambiguous: the key {key} stands twice")
            if not isinstance(value, dict):
                settings[key] = value
    except RecursionError as error:
        raise ConfigError(f"{name} contains itself") from error
    return settings


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a tree by dotted names."""
    return {name: value for name, value in _nodes(tree) if not isinstance(value, dict)}


def _nodes(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all groups and settings of a tree by dotted names, a group before its settings."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _nodes(value, f"{prefix}{key}.")


class StrictLoader(yaml.SafeLoader):
    """Refuse duplicate keys, of which yaml keeps the last one silently, very long keys, and merges (``<<``) that multiply."""

    merged = 0  # entries of mappings, each counted as often as it is merged into one

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """As yaml's; raises ComposerError for a key that stands twice or is very long."""
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if len(key.value) > _MAX_KEY_LENGTH:
                    raise yaml.composer.ComposerError(None, None, f"a key of {len(key.value):,} characters", key.start_mark)
                if key.value in names:
                    raise yaml.composer.ComposerError(None, None, f"the key {key.value} stands twice", key.start_mark)
                names.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """As yaml's; raises ConstructorError if merges make too many settings."""
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > _MAX_SETTINGS:
            raise yaml.constructor.ConstructorError(None, None, f"more than {_MAX_SETTINGS:,} settings", node.start_mark)


def _nearest_file(path: Path) -> str:
    """Return a hint at the existing yaml file with the most similar path, or an empty string."""
    folder = path.parent if os.path.isdir(path.parent) else path.parent.parent
    folders = [folder] if os.path.isdir(folder) and folder != Path(folder.anchor) else []
    # The project's files are compared by their names, whatever the working directory is.
    files = {str(file.relative_to(CONFIGS)): file for file in CONFIGS.rglob("*.yaml")}
    with contextlib.suppress(OSError):  # a folder that is removed meanwhile
        files |= {str(file): file for each in folders for file in itertools.islice(each.rglob("*.yaml"), 2000)}
    near = difflib.get_close_matches(str(path).removeprefix("configs/"), files, n=1, cutoff=0.5)
    return f"; did you mean {config_word(files[near[0]])}?" if near else ""


def _files_in(folder: Path) -> str:
    """Return a hint at the yaml files in a folder, such as the ``config.yaml`` of a run."""
    names = sorted(file.name for file in itertools.islice(folder.glob("*.yaml"), 2000))
    return f"; name a file in it: {listing(names)}" if names else ""
