"""What a run must have in common with the checkpoint that it goes on from: settings, teacher, plug-ins, data."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..config import changes_between_ranks
from ..data import DataIdentity
from ..errors import ConfigError


@dataclass
class RunIdentity:
    """Settings, teacher, plug-ins and data of a run.

    Attributes:
        config: the configuration.
        teacher_hash: SHA-256 of the teacher's file, or None without a teacher.
        data: identity of the data set.
        plugins: sources of the plug-ins by file name.
        earlier_plugins: SHA-256 of those that the run had before it was resumed.
    """

    config: CfgNode
    teacher_hash: str | None
    data: DataIdentity
    plugins: Mapping[str, bytes]
    earlier_plugins: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def config_text(self) -> str:
        """The configuration as yaml, as it is in ``config.yaml`` and in every checkpoint."""
        text: str = self.config.dump()
        return text

    def plugin_hashes(self) -> dict[str, str]:
        """SHA-256 of each plug-in by file name."""
        return {name: hashlib.sha256(source).hexdigest() for name, source in self.plugins.items()}

    def saved(self) -> dict[str, Any]:
        """Entries of a checkpoint."""
        return {
            "config": self.config_text,
            "teacher_hash": self.teacher_hash,
            "plugins": self.earlier_plugins | self.plugin_hashes(),
            "data": self.data.plain(),
        }

    def differences(self, other: RunIdentity) -> list[str]:
        """How this run differs from that of another rank, which must do the same job."""
        found = changes_between_ranks(self.config, other.config)
        if self.teacher_hash != other.teacher_hash:
            found.append("another checkpoint of the teacher")
        if self.plugins != other.plugins:
            found.append("other plug-ins")
        return found + self.data.changes(other.data)

    def check(self, file: Path, saved: Mapping[str, Any]) -> list[str]:
        """Compare with a checkpoint ``file`` of the run; returns notes. Raises ConfigError for that of another run."""
        was, now = (str(sha256)[:12] for sha256 in (saved.get("teacher_hash"), self.teacher_hash))
        if saved.get("teacher_hash") != self.teacher_hash:
            raise ConfigError(
                f"the teacher's checkpoint is not the one that the run in {file.parent} began with "
                f"(SHA-256 {was}..., now {now}...): put that back, or start a new run"
            )
        began_with = DataIdentity.from_plain(saved.get("data"))
        changes = began_with.changes(self.data) if began_with is not None else []
        if changes:
            raise ConfigError(
                f"the data (DATASET.ROOT) are not those that the run in {file.parent} began with ({'; '.join(changes)}): "
                "put those back, or start a new run"
            )
        self.earlier_plugins = dict(saved.get("plugins") or {})
        return self._changed_plugins(file.parent)

    def _changed_plugins(self, folder: Path) -> list[str]:
        """Notes on plug-ins that a resumed run no longer loads, or loads now. Raises ConfigError for one that was edited."""
        before, now = self.earlier_plugins, self.plugin_hashes()
        for name in now:
            if before.get(name, now[name]) != now[name]:
                raise ConfigError(
                    f"plugin {name} is not the one that the run in {folder} began with "
                    f"(SHA-256 {str(before[name])[:12]}..., now {now[name][:12]}...): "
                    f"restore it from {folder / 'plugins' / name}, or start a new run"
                )
        notes = [f"the run began with plugin {name}, which is not loaded now" for name in before if name not in now]
        return notes + [f"the run began without plugin {name}" for name in now if name not in before]
