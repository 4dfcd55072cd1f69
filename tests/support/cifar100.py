"""A small CIFAR-100 archive."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np


def pickle_as_python2(entry: dict[str, object]) -> bytes:
    """Protocol 2 with dtype's flags as integers, as the real files have them; some numpy versions stumble over that."""
    data = pickle.dumps(entry, protocol=2)
    assert data.count(b"\x89\x88\x87") == ("data" in entry)
    return data.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


class Archive:
    """A small CIFAR-100 in the real format: the archive's bytes and what is in it."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.pixels = {name: rng.integers(256, size=(n, 3072), dtype=np.uint8) for name, n in (("train", 20), ("test", 10))}
        self.labels = {name: rng.integers(100, size=len(rows)).tolist() for name, rows in self.pixels.items()}
        self.md5 = {}
        source = folder / "cifar-100-python"
        source.mkdir(parents=True)
        entries: dict[str, dict[str, object]] = {
            name: {"data": rows, "fine_labels": self.labels[name]} for name, rows in self.pixels.items()
        }
        entries["meta"] = {"fine_label_names": [str(n) for n in range(100)]}
        for name, entry in entries.items():
            data = pickle_as_python2(entry)
            (source / name).write_bytes(data)
            self.md5[name] = hashlib.md5(data).hexdigest()
        self.path = folder / "cifar-100-python.tar.gz"
        with tarfile.open(self.path, "w:gz") as tar:
            tar.add(source, "cifar-100-python")
