"""Pictures as people have them, turned by a camera, 16 bits deep, transparent: the same pixels on every way."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from tiny_model import make_model, make_processor, picture

from mutua.api import conversation
from mutua.data.readers import JsonLines
from mutua.images import ImageError, open_image

RNG = np.random.default_rng(0)
COLOURS_HWC = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GRAYS_HW, DEEP_HW = COLOURS_HWC[..., 0], RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
SHOWN_HW = RNG.random((6, 8)) < 0.5  # what is not transparent
ALPHA_HW = np.where(SHOWN_HW, 255, 0).astype(np.uint8)
ON_WHITE = np.where(SHOWN_HW[..., None], COLOURS_HWC, 255)
GRAY_ON_WHITE = np.where(SHOWN_HW, GRAYS_HW, 255)

Stored = tuple[Callable[[Path], None], np.ndarray]  # writes the file; what is seen in it: (H, W) or (H, W, 3)


def saved(image: Image.Image, **options: Any) -> Callable[[Path], None]:
    return lambda path: image.save(path, **options)


def turned(orientation: int, back: Image.Transpose | None) -> Stored:
    """As a camera that was held otherwise stores it."""
    exif, image = Image.Exif(), Image.fromarray(COLOURS_HWC)
    exif[0x0112] = orientation
    return saved(image if back is None else image.transpose(back), exif=exif), COLOURS_HWC


def of_16_bits(path: Path) -> None:
    """A colour PNG, which Pillow cannot write: the lower 8 bits are noise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deep_HWC = (COLOURS_HWC.astype(">u2") << 8) + DEEP_HW[..., None] % 256
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep_HWC)
    head = struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def of_palette() -> Stored:
    index_HW, colours = RNG.integers(0, 4, (6, 8), dtype=np.uint8), RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(index_HW, "P")
    image.putpalette(colours.flatten().tolist())
    return saved(image, transparency=2), np.where(index_HW[..., None] == 2, 255, colours[index_HW])


def clear_gray() -> Stored:
    return saved(Image.fromarray(GRAYS_HW), transparency=int(GRAYS_HW[0, 0])), np.where(
        GRAYS_HW[0, 0] == GRAYS_HW, 255, GRAYS_HW
    )


FLIP = Image.Transpose
STORED: dict[str, Stored] = {
    "turned 1": turned(1, None),
    "turned 2": turned(2, FLIP.FLIP_LEFT_RIGHT),
    "turned 3": turned(3, FLIP.ROTATE_180),
    "turned 4": turned(4, FLIP.FLIP_TOP_BOTTOM),
    "turned 5": turned(5, FLIP.TRANSPOSE),
    "turned 6": turned(6, FLIP.ROTATE_90),
    "turned 7": turned(7, FLIP.TRANSVERSE),
    "turned 8": turned(8, FLIP.ROTATE_270),
    "turned in words": (saved(Image.fromarray(COLOURS_HWC), exif=b"Exif\0\0to the left"), COLOURS_HWC),
    "gray of 16 bits": (saved(Image.fromarray(DEEP_HW)), DEEP_HW >> 8),
    "gray of 16 bits, big-endian": (saved(Image.fromarray(DEEP_HW.astype(">u2")), format="TIFF"), DEEP_HW >> 8),
    "gray of 16 bits in 32": (saved(Image.fromarray(DEEP_HW), format="PPM"), DEEP_HW >> 8),
    "colours of 16 bits": (of_16_bits, COLOURS_HWC),
    "RGBA": (saved(Image.fromarray(np.dstack([COLOURS_HWC, ALPHA_HW]))), ON_WHITE),
    "LA": (saved(Image.fromarray(np.dstack([GRAYS_HW, ALPHA_HW]), "LA")), GRAY_ON_WHITE),
    "a palette with a transparent entry": of_palette(),
    "a transparent gray": clear_gray(),
    "CMYK": (
        saved(Image.fromarray(np.dstack([255 - COLOURS_HWC, 0 * ALPHA_HW]), "CMYK"), format="TIFF"),
        COLOURS_HWC,
    ),
    "1 bit": (saved(Image.fromarray(SHOWN_HW)), ALPHA_HW),
}


@cache
def processor() -> Any:
    return make_processor(make_model())


def by_template(part: Any) -> torch.Tensor:
    chat = [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]
    return processor().apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")["pixel_values"]


def by_question(image: Any) -> torch.Tensor:
    return by_template(conversation(image, "what?")[0]["content"][0])


def by_processor(image: Any) -> torch.Tensor:
    return processor()(images=image, text="<image>", return_tensors="pt")["pixel_values"]


def by_json_lines(path: Path) -> torch.Tensor:
    content = [{"type": "image", "image": path.name}, {"type": "text", "text": "what?"}]
    (path.parent / "a.jsonl").write_text(json.dumps({"id": "1", "messages": [{"role": "user", "content": content}]}))
    return by_template(JsonLines(path.parent / "a.jsonl")[0].chat()[0]["content"][0])


WAYS: dict[str, Callable[[Path], torch.Tensor]] = {
    "path": by_question,
    "PIL": lambda path: by_question(Image.open(path)),
    "bytes": lambda path: by_question(path.read_bytes()),
    "bytes of datasets": lambda path: by_question({"bytes": path.read_bytes(), "path": None}),
    "template, image=path": lambda path: by_template({"type": "image", "image": str(path)}),
    "template, path": lambda path: by_template({"type": "image", "path": path}),
    "template, url": lambda path: by_template({"type": "image", "url": str(path)}),
    "template, PIL": lambda path: by_template({"type": "image", "image": Image.open(path)}),
    "processor, path": lambda path: by_processor(str(path)),
    "processor, PIL": lambda path: by_processor([Image.open(path)]),
    "JSON Lines": by_json_lines,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stored", STORED)
def test_a_file_has_the_same_pixels_on_every_way(stored, way, tmp_path):
    write, seen = STORED[stored]
    write(tmp_path / "a.png")
    seen_HWC = seen if seen.ndim == 3 else np.repeat(seen[..., None], 3, axis=2)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), seen_HWC)
    expected = processor().image_processor(Image.fromarray(seen_HWC.astype(np.uint8)), return_tensors="pt")
    assert torch.equal(WAYS[way](tmp_path / "a.png"), expected["pixel_values"])


def test_what_is_half_transparent_shows_half_of_white():
    assert open_image(Image.new("RGBA", (1, 1), (0, 0, 100, 128))).getpixel((0, 0)) == (127, 127, 177)


def test_rgb_is_not_copied():
    image = picture(1)
    assert open_image(image) is image
    assert open_image(open_image(Image.new("L", (2, 2)))).mode == "RGB"


@pytest.mark.parametrize(
    "image",
    [
        COLOURS_HWC,
        np.moveaxis(COLOURS_HWC, 2, 0),
        (COLOURS_HWC.astype(np.uint16) << 8) + 7,
        (COLOURS_HWC.astype(">u2") << 8) + 7,
        torch.from_numpy(COLOURS_HWC),
        torch.from_numpy(COLOURS_HWC).permute(2, 0, 1),
        np.dstack([COLOURS_HWC, np.full((6, 8), 255, np.uint8)]),
    ],
    ids=lambda image: f"{type(image).__name__} {tuple(image.shape)} {image.dtype}",
)
def test_arrays_and_tensors(image):
    assert np.array_equal(np.asarray(open_image(image)), COLOURS_HWC)


@pytest.mark.parametrize("image", [GRAYS_HW, GRAYS_HW[..., None], torch.from_numpy(GRAYS_HW.copy())[None]])
def test_gray_arrays(image):
    assert np.array_equal(np.asarray(open_image(image)), np.repeat(GRAYS_HW[..., None], 3, axis=2))


def test_transparent_arrays_lie_on_white():
    assert np.array_equal(np.asarray(open_image(np.dstack([COLOURS_HWC, ALPHA_HW]))), ON_WHITE)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_any_shape_is_a_picture(size):
    assert by_processor(Image.new("RGB", size)).shape == by_processor(picture(1)).shape


def test_a_photo_with_a_preview_is_one_picture():
    file = io.BytesIO()
    picture(1).save(file, "MPO", save_all=True, append_images=[picture(2)])
    assert open_image(file.getvalue()).size == (32, 32)


def test_16_bits_keep_their_shades():
    shades = np.array([[0, 257, 30000, 65535]], dtype=np.uint16)
    assert np.asarray(open_image(Image.fromarray(shades)))[0, :, 0].tolist() == [0, 1, 117, 255]


def encoded(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture(1).save(file, form, **options)
    return file.getvalue()


FILES = [encoded("PNG"), encoded("JPEG", exif=Image.Exif().tobytes()), encoded("GIF"), encoded("TIFF"), encoded("WEBP")]
FILES += [encoded("AVIF")] if features.check("avif") else []


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it can put right
@settings(deadline=None, max_examples=200)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4), st.booleans())
def test_a_damaged_file_is_a_picture_or_an_error_of_ours(content, changes, cut):
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with suppress(ImageError):
        assert open_image(bytes(damaged[: len(damaged) // 2] if cut else damaged)).mode == "RGB"
