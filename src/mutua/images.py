"""Opening a picture that a person named: whatever is wrong with it becomes one sentence."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class ImageError(ValueError):
    """A picture that cannot be used; the message names the file and what is wrong."""


def open_image(path: str | Path) -> Image.Image:
    """The whole picture, decoded, apart from its file, the right way up. Raises ImageError."""
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder: name a picture in it.")
    if not path.exists():
        raise ImageError(f"file not found: {path}")
    try:
        with warnings.catch_warnings():
            # Between its limit and twice its limit Pillow only warns; a picture that large is no question's picture.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.load()  # decodes all of it, so that a truncated file is found here
                image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise ImageError(f"not an image: {path}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = Image.MAX_IMAGE_PIXELS
        raise ImageError(f"image too large: {path} would decode to more than {limit} pixels; scale it down.") from None
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise for damaged data
        raise ImageError(f"damaged image: {path} ({error})") from None
    return _in_8_bits(image, path)


def _in_8_bits(image: Image.Image, path: Path) -> Image.Image:
    """Pillow clips deeper pixels at 255 where it converts them: a gray of 16 bits would be white."""
    if image.mode == "F":
        raise ImageError(f"{path} holds floating-point pixels of an unknown range: save it with 8 bits a channel.")
    if image.mode.startswith("I"):  # one channel of 16 bits, in PNG and TIFF
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image
