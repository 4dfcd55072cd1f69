"""Download, verify and unpack data sets and teachers::

python -m mdistiller_ext.download cifar100                    # 169 MB, to data/cifar-100-python
python -m mdistiller_ext.download tiny_imagenet               # 248 MB, to data/tiny-imagenet-200
python -m mdistiller_ext.download teachers                    # mdistiller's for CIFAR-100, to download_ckpts/cifar_teachers
python -m mdistiller_ext.download imagenet_teachers ResNet34  # torchvision's, to download_ckpts/imagenet_teachers

Existing files that pass their checks are kept. An interrupted download resumes; an archive that is already in the folder is
used. Archives are deleted once they are unpacked.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from .command import Parser, run_command
from .errors import ConfigError, CorruptFileError
from .fetch import fetch_archive, fetch_torchvision_weights
from .models import list_models, pretrained_url


@dataclass(frozen=True)
class Source:
    """An archive: its URL, the folder to download to by default, the folder it unpacks to, and its MD5 sum if known."""

    url: str
    root: str
    folder: str
    md5: str = ""


# Functions, since data sets import torch, which takes over a second: --help answers without it.
def _cifar100() -> Source:
    from .data import cifar100

    return Source(url=cifar100.URL, root="data", folder=cifar100.FOLDER, md5=cifar100.MD5)


def _tiny_imagenet() -> Source:
    from .data import tiny_imagenet

    return Source(url=tiny_imagenet.URL, root="data", folder=tiny_imagenet.FOLDER, md5=tiny_imagenet.MD5)


def _teachers() -> Source:
    from .data import cifar100

    return Source(url=cifar100.TEACHERS_URL, root="download_ckpts", folder="cifar_teachers")


SOURCES = {"cifar100": _cifar100, "tiny_imagenet": _tiny_imagenet, "teachers": _teachers}
IMAGENET_ROOT = Path("download_ckpts", "imagenet_teachers")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(
        prog="python -m mdistiller_ext.download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*SOURCES, "imagenet_teachers"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="imagenet_teachers: which networks; all if left out")
    parser.add_argument("--root", metavar="DIR", type=Path, help="folder to download to, if not the one above")
    parser.add_argument("--url", metavar="MIRROR", help="another address of the same archive")
    parser.add_argument("--md5", metavar="SUM", help="its MD5 sum, if not the known one; '' with --url: do not check")
    arguments = parser.parse_args()
    if arguments.what == "imagenet_teachers":
        if arguments.url is not None or arguments.md5 is not None:
            raise ConfigError(
                "imagenet_teachers come from torchvision's addresses, which hold their checksums: no --url or --md5"
            )
    elif arguments.names:
        raise ConfigError(
            f"{arguments.what} is fetched whole; names belong to imagenet_teachers, got {' '.join(arguments.names)}"
        )
    if arguments.md5 == "" and arguments.url is None:
        raise ConfigError("--md5 '' leaves what comes unchecked; that takes an address of your own choice (--url)")
    if arguments.md5 and not re.fullmatch(r"[0-9a-fA-F]{32}", arguments.md5):
        raise ConfigError(f"an MD5 sum has 32 digits 0-9 a-f, got --md5 {arguments.md5}")
    return arguments


def download_archive(what: str, root: Path | None = None, url: str | None = None, md5: str | None = None) -> None:
    """Download and unpack one of SOURCES. Raises as `fetch_archive`, and CorruptFileError for a damaged teacher.

    Args:
        url, md5: used instead of the known ones; an empty ``md5`` skips the check.
    """
    source = SOURCES[what]()
    root = Path(source.root) if root is None else root
    folder = root / source.folder
    if folder.exists():
        print(f"{what}: {folder} is there already, nothing to do (delete it to fetch it anew)")
        return
    md5 = source.md5 if md5 is None else md5
    if not md5:
        print(f"{what}: no checksum is known; the length that the server tells and the structure of the archive are checked")
    # Named after the known URL: a mirror's may end in anything.
    fetch_archive(url or source.url, root / Path(source.url).name, folder.exists, md5=md5)
    print(f"{what}: unpacked to {folder}; the archive is removed")
    if what == "teachers":
        print(f"teachers, each read safely: {', '.join(read_teachers(folder))}")


def read_teachers(folder: Path) -> list[str]:
    """Load all teachers of a folder; returns their names. Raises CorruptFileError if one cannot be read or there are none."""
    from . import checkpoint  # imports torch

    files = sorted(folder.glob("*/*.pth"))
    if not files:
        raise CorruptFileError(f"{folder.absolute()} holds no teachers (*/*.pth). Delete it and get it anew")
    for file in files:
        checkpoint.load(file)
    return [file.parent.name.removesuffix("_vanilla") for file in files]


def download_imagenet_teachers(names: list[str], root: Path = IMAGENET_ROOT) -> None:
    """Download torchvision weights of networks of the ImageNet zoo; an empty ``names`` selects all that have weights.

    Raises as `fetch`, UnknownNameError, and ConfigError for a network without weights.
    """
    for name in names or list_models("imagenet"):
        url = pretrained_url(name, "imagenet")
        if url is None:
            if names:
                raise ConfigError(f"torchvision has no weights of {name}")
            continue
        print(f"{name}: {fetch_torchvision_weights(url, root)}")


def main() -> None:
    arguments = parse_arguments()
    if arguments.what == "imagenet_teachers":
        download_imagenet_teachers(arguments.names, arguments.root or IMAGENET_ROOT)
    else:
        download_archive(arguments.what, arguments.root, arguments.url, arguments.md5)


if __name__ == "__main__":
    run_command(main)
