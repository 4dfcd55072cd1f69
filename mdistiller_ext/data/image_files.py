"""Read an image file as RGB; errors are one line that names the file."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import CorruptFileError, MissingFileError

DECODER = "Pillow, 1"
"""Name and version of the decoding, part of the key of cached images: change it whenever `read_image` returns other pixels"""


def read_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Read an image and convert it to RGB. Raises CorruptFileError or MissingFileError, naming the file.

    Args:
        content: bytes of the file, if already read.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise MissingFileError(f"{path.absolute()} is gone; it was there when the data set was listed") from error
    except Exception as error:  # Pillow's decoders raise any exception for damaged bytes
        # Pillow's own text contains the address of a buffer, which differs from run to run.
        why = "it is of no known format" if isinstance(error, UnidentifiedImageError) else str(error).split("\n")[0]
        why = why or type(error).__name__
        raise CorruptFileError(f"{path.absolute()} is no readable image ({why}); fetch it again or remove it") from error
