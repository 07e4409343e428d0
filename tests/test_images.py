"""Pictures as people have them: turned by a camera, 16 bits deep, in formats that nobody can read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mutua.images import ImageError, open_image


def test_a_camera_held_sideways(tmp_path: Path) -> None:
    picture, exif = Image.new("RGB", (64, 32)), Image.Exif()
    picture.paste((255, 0, 0), (0, 0, 32, 32))
    exif[0x0112] = 6  # orientation: turn by a quarter, clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    opened = open_image(tmp_path / "a.png")
    assert opened.size == (32, 64)
    assert opened.getpixel((16, 8)) == (255, 0, 0)
    assert opened.getpixel((16, 56)) == (0, 0, 0)


def test_16_bits_keep_their_shades(tmp_path: Path) -> None:
    shades = np.array([[0, 257, 30000, 65535]], dtype=np.uint16)
    Image.fromarray(shades).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png").convert("RGB"))[0, :, 0].tolist() == [0, 1, 116, 255]


def test_floats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match="save it with 8 bits a channel"):
        open_image(tmp_path / "a.tiff")
