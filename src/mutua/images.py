"""Pictures of every kind become 8-bit RGB pixels here and nowhere else: one file gives the same pixels on every way.

Whatever is wrong with a picture becomes one sentence, at once: nothing is waited for, and nothing is fetched from the
network.
"""

from __future__ import annotations

import base64
import binascii
import errno
import math
import os
import re
import stat
import struct
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from mutua.shortened import shortened

TAKEN = (
    "a picture is the path of a file, a PIL image, the bytes of a file, a data: URL, or an array or tensor of uint8 or "
    "uint16"
)
_ORIENTATION = Base.Orientation.value
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a single letter is a drive
_ONE_PICTURE = ("MPO", "PSD")  # formats whose further frames are previews and layers of the first
# Commands instead of pixels. Pillow has another program carry them out (Ghostscript), for as long as that takes.
_DRAWINGS = {"EPS": "PostScript", "WMF": "a Windows metafile"}
_CHANNELS = (1, 3, 4)
# What Pillow's decoders raise for damaged data; libraries that it calls have their own words for it.
_DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, ArithmeticError, LookupError, EOFError, struct.error)


class ImageError(ValueError):
    """A picture that cannot be used; the message names it and what is wrong."""


def open_image(picture: Any) -> Image.Image:
    """The picture in 8-bit RGB, the right way up, decoded and apart from its file.

    A camera's turn (EXIF) is carried out, what is transparent lies on white, and of 16 bits the upper 8 are kept. A PIL
    image that needs none of this is returned itself, not a copy.

    Args:
        picture: the path of a file; a PIL image; a file's bytes, or a mapping of `bytes` and `path` (as `datasets`
            keeps them); a `data:` URL; an array or tensor of uint8 or uint16, of shape (H, W), or with 1, 3 or 4
            channels behind or before them.

    Raises:
        ImageError: none of these, nothing there, damaged, too large, without a pixel, moving, drawn by commands
            (PostScript), or with pixels of an unknown range (floats).
    """
    if isinstance(picture, Mapping) and picture.keys() <= {"bytes", "path"}:
        picture = picture.get("path") if picture.get("bytes") is None else picture["bytes"]
    if isinstance(picture, str) and picture[:5].lower() == "data:":
        picture = _data_of(picture)
    if isinstance(picture, Image.Image):
        return _decoded(picture, f"the picture {shortened(getattr(picture, 'filename', '') or repr(picture), 100)}")
    if isinstance(picture, (str, Path)):
        return _read(picture)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return _opened(BytesIO(picture), f"the picture given as {len(picture)} bytes")
    if all(hasattr(picture, name) for name in ("__array__", "shape", "dtype")):
        return _from_array(picture)
    raise ImageError(f"{shortened(repr(picture))} ({type(picture).__name__}) is no picture: {TAKEN}.")


def open_images(images: Any) -> Any:
    """`open_image` for one picture, a list of pictures, or a list of lists, one for each text, in the same form.

    Raises:
        ImageError: as `open_image`, with the place in the list, counted from 1.
    """
    if not isinstance(images, (list, tuple)):
        return open_image(images)
    is_list = [isinstance(image, (list, tuple)) for image in images]
    if not any(is_list):
        return open_list(images)
    if not all(is_list):
        raise ImageError("images holds pictures and lists of pictures side by side: give one list for each text.")
    return [open_list(of_text, f"text {nth}, ") for nth, of_text in enumerate(images, 1)]


def open_list(images: Sequence[Any], before: str = "") -> list[Image.Image]:
    """`open_image` for each picture of a list; in an ImageError `before` and its place, counted from 1, come first."""
    opened = []
    for nth, image in enumerate(images, 1):
        try:
            opened.append(open_image(image))
        except ImageError as error:
            place = f"{before}picture {nth} of {len(images)}: " if before or len(images) > 1 else ""
            raise ImageError(f"{place}{error}") from None
    return opened


def url_problem(name: str) -> str | None:
    """What to say where a path is a URL, percent-encoded or not; None if it is none."""
    address = unquote(name)
    if not _URL.match(address):
        return None
    if address.lower().startswith("file:"):
        return f"{shortened(name, 100)} is a URL: give the path of the file instead, without file://"
    return f"{shortened(name, 100)} is a URL, and no network is used: download it first and give the path of the file"


def _read(name: str | Path) -> Image.Image:
    """The picture in a file. What is no file is refused before it is opened: a FIFO would be waited for."""
    if not str(name):
        raise ImageError("the name of a picture is empty: give the path of a file.")
    shown = shortened(str(name), 100)
    try:
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError(f"{shown} is {_kind(mode)}.")
        with open(name, "rb") as file:
            return _opened(file, shown)
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(_file_problem(str(name), error)) from None
    except ValueError:  # a NUL byte, or a lone surrogate
        raise ImageError(f"no file can have the name {shown!r}: it holds a letter that no file name may.") from None


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder: name a picture in it"
    if stat.S_ISFIFO(mode):
        return "a FIFO (named pipe), which may never end: save the picture in a file first"
    if stat.S_ISSOCK(mode):
        return "a socket: save the picture in a file first"
    return "a device: name the file of a picture"


def _file_problem(name: str, error: OSError) -> str:
    shown = shortened(name, 100)
    if error.errno == errno.ELOOP:
        return f"{shown} is a link that leads back to itself: name the picture's own file."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission to read {shown}: change its rights or those of its folder, or take a copy."
    if problem := url_problem(name):
        return f"{problem}."
    if error.errno == errno.ENAMETOOLONG:
        return f"no file can have so long a name ({len(name):,} characters): {shown}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.islink(name):
            return f"{shown} is a link to {shortened(os.readlink(name), 100)}, which is not there."
        return f"file not found: {shown}"
    return f"cannot read {shown}: {error.strerror or error}"


def _data_of(url: str) -> bytes:
    """The bytes in a `data:` URL."""
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ImageError(f"{shortened(url)}: of data: URLs, those with base64 are taken: data:image/png;base64,...")
    try:
        return base64.b64decode("".join(unquote(data).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{shortened(url)}: no valid base64 ({error}).") from None


def _opened(file: Any, name: str) -> Image.Image:
    """The picture in an open file."""
    try:
        with warnings.catch_warnings():
            # Between its limit and twice its limit Pillow only warns; a picture that large is no question's picture.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                image = _decoded(opened, name)
                return image.copy() if image is opened else image
    except UnidentifiedImageError:
        is_empty = not (file.seek(0) or file.read(1))
        raise ImageError(f"not an image: {name}{' is empty, 0 bytes' if is_empty else ''}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name) from None
    except ImageError:
        raise
    except _DAMAGED as error:
        raise ImageError(f"damaged image: {name} ({error})") from None


def _decoded(image: Image.Image, name: str) -> Image.Image:
    """All pixels of an open image, in RGB; `image` itself if it has them already."""
    if image.format in _DRAWINGS:
        raise ImageError(
            f"{name} is {_DRAWINGS[image.format]}, commands for another program to carry out: save it as PNG."
        )
    if getattr(image, "is_animated", False) and image.format not in _ONE_PICTURE:
        raise ImageError(f"{name} holds several frames or pages: save the one you mean as a picture of its own.")
    if 0 in image.size:
        raise ImageError(f"{name} is empty: {image.width} x {image.height} pixels.")
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise _too_large(name)
    try:
        image.load()  # all of it, so that a truncated file is found here
        if _is_turned(image):
            image = ImageOps.exif_transpose(image)
        return _in_rgb(image, name)
    except ImageError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"cannot read {name}: {error.strerror or error}") from None
        raise ImageError(f"damaged image: {name} ({error})") from None


def _too_large(name: str) -> ImageError:
    limit = Image.MAX_IMAGE_PIXELS
    return ImageError(f"image too large: {name} would decode to more than {limit} pixels; scale it down.")


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF tells of a turn. Damaged EXIF, which Pillow raises for only sometimes, tells of none."""
    try:
        return image.getexif().get(_ORIENTATION, 1) != 1
    except _DAMAGED:
        return False


def _in_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point pixels of an unknown range: save it with 8 bits a channel.")
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image), image.info.get("transparency"), name).convert("RGB")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _from_16_bits(gray_HW: np.ndarray, transparent: int | None, name: str) -> Image.Image:
    """The upper 8 bits, which Pillow keeps of colours with 16 bits too; where it converts a gray, it clips at 255."""
    lowest, highest = int(gray_HW.min()), int(gray_HW.max())
    # In 32 bits there may be anything. What has 8 bits in truth would come out black.
    if gray_HW.dtype.itemsize > 2 and (lowest < 0 or highest > 65535 or 0 < highest < 256):
        raise ImageError(
            f"{name} holds integers from {lowest} to {highest} in 32 bits, of an unknown range: save it with 8 bits a "
            "channel."
        )
    gray8_HW = (gray_HW >> 8).astype(np.uint8)
    if transparent is not None:
        gray8_HW[gray_HW == transparent] = 255
    return Image.fromarray(gray8_HW)


def _from_array(array: Any) -> Image.Image:
    """A numpy array, or a tensor on any device."""
    name, dtype = f"the {type(array).__name__} of shape {tuple(array.shape)}", str(array.dtype).removeprefix("torch.")
    if dtype not in ("uint8", "uint16", ">u2"):
        raise ImageError(
            f"{name} holds {dtype}, of an unknown range: give uint8 from 0 to 255; what goes from 0 to 1 is multiplied "
            "by 255 and rounded for that."
        )
    try:
        pixels = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    except Exception as error:  # a tensor that is sparse or on the meta device, an object with rules of its own
        raise ImageError(f"{name} cannot be read as a numpy array ({error}): make a PIL image of it.") from error
    if pixels.ndim == 3:
        first, last = pixels.shape[0] in _CHANNELS, pixels.shape[2] in _CHANNELS
        if first and last:
            raise ImageError(f"{name} may have its channels first or last: make a PIL image of it.")
        if first:
            pixels = np.moveaxis(pixels, 0, 2)
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in _CHANNELS)):
        raise ImageError(
            f"{name} is no picture: give (height, width), or these with 1, 3 or 4 channels behind or before them."
        )
    if not pixels.size:
        raise ImageError(f"{name} is empty: it has no pixel.")
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return _decoded(Image.fromarray(np.ascontiguousarray(pixels)), name)
