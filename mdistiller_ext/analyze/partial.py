"""Values computed so far, so that an analysis that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Values = dict[str, float]


class Partial:
    """Values by key, kept in a file of a JSON object per line if one is given, and in memory otherwise.

    Args:
        file: appended to after each computation. A last line that a kill has cut off is computed again.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known: dict[str, Values] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file is not None and file.is_file() else ():
            try:
                entry = json.loads(line)
                self._known[json.dumps(entry["key"])] = dict(entry["values"])
            except (ValueError, TypeError, KeyError):
                continue

    def get(self, key: list[str | int | float], compute: Callable[[], Values]) -> Values:
        """The values of a key, computed unless they are known.

        Args:
            key: all that the values depend on, such as a hash of the weights (``TrainedRun.fingerprint``), options and images.
        """
        text = json.dumps(key)
        if text not in self._known:
            values = self._known[text] = compute()
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with open(self._file, "a", encoding="utf-8") as file:
                    file.write("\n" * self._is_cut_off() + json.dumps({"key": key, "values": values}) + "\n")
        return self._known[text]

    def _is_cut_off(self) -> bool:
        assert self._file is not None
        text = self._file.read_bytes()
        return bool(text) and not text.endswith(b"\n")
