"""Read an image file as RGB; errors are one line that names the file.

JPEG is decoded by libjpeg-turbo (simplejpeg), to the same pixels as by Pillow, which reads everything else.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import CorruptFileError, MissingFileError

Pixels = NDArray[np.uint8]
"""``[H, W, 3]``, RGB"""

DECODER = 2
"""Version of the decoding, part of the key of cached images: change it whenever `read_image` returns other pixels"""

_UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_WITHIN = 4096  # bytes from the start of a JPEG, where EXIF is the first segment, or the one after JFIF's


def read_image(path: str | os.PathLike[str], content: bytes | None = None) -> Pixels:
    """Read an image and convert it to RGB, upright: rotated as its EXIF orientation says.

    Of 16-bit greyscale the upper 8 bits are kept, a palette's colours are looked up, transparency is dropped, and of an
    animation the first frame is read. Raises CorruptFileError or MissingFileError, naming the file.

    Args:
        content: bytes of the file, if already read.
    """
    try:
        if content is None:
            with open(path, "rb") as file:
                content = file.read()
        pixels = _decode_jpeg(content)
        return _decode(content) if pixels is None else pixels
    except FileNotFoundError as error:
        raise MissingFileError(f"{Path(path).absolute()} is gone; it was there when the data set was listed") from error
    except Exception as error:  # Pillow's decoders raise any exception for damaged bytes
        # Pillow's own text contains the address of a buffer, which differs from run to run.
        why = "it is of no known format" if isinstance(error, UnidentifiedImageError) else str(error).split("\n")[0]
        why = why or type(error).__name__
        raise CorruptFileError(f"{Path(path).absolute()} is no readable image ({why}); fetch it again or remove it") from error


def _decode_jpeg(content: bytes) -> Pixels | None:
    """Decode an upright RGB or greyscale JPEG; None for any other content, which Pillow reads or refuses.

    Also None for a damaged file, and for one so large that Pillow takes it for an attack on the memory.
    """
    if not content.startswith(b"\xff\xd8"):
        return None
    if b"Exif" in content[:_EXIF_WITHIN]:
        with _opened(content) as image:
            if _orientation(image) != 1:
                return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours == "CMYK" or height * width > (Image.MAX_IMAGE_PIXELS or float("inf")):
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(content)
    except ValueError:
        return None
    return pixels


def _decode(content: bytes) -> Pixels:
    """Decode an image of any format with Pillow."""
    with _opened(content) as opened:
        image: Image.Image = opened
        image.load()  # Pillow turns TIFF upright itself, and then removes the orientation
        if (orientation := _orientation(image)) != 1:
            image = image.transpose(_UPRIGHT[orientation])
        if image.mode.startswith("I"):
            image = _in_8_bits(image, sixteen=image.mode != "I" or opened.format in ("PNG", "PPM"))
        elif image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, whose range is unknown; convert it to 8 bits")
        return np.array(image.convert("RGB"))  # a copy, which can be written to, as torch wants it


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image with Pillow, whose warnings (damaged EXIF, transparency of a palette) do not concern the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            yield image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1, upright, if there is none, or none that can be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF is parsed like any other bytes; damage to it does not concern the pixels
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _in_8_bits(image: Image.Image, *, sixteen: bool) -> Image.Image:
    """Convert integers of 16 bits, of which the upper 8 are kept as Pillow does of colours, or of 32 bits, which must fit.

    Pillow's own conversion turns every pixel above 255 white.
    """
    values = np.asarray(image)
    if sixteen:
        values = values >> 8
    elif values.min() < 0 or values.max() > 255:
        raise ValueError("its pixels are integers of 32 bits, whose range is unknown; convert it to 8 bits")
    return Image.fromarray(values.astype(np.uint8))
