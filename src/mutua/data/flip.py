"""Pictures mirrored left to right, as augmentation: of a sample that stays true, which of it depends on its words."""

from __future__ import annotations

import re
from hashlib import blake2b

from PIL import Image

from mutua.data.sample import ImagePart, Message, Part, Sample
from mutua.images import open_image

# "topleft", "right-hand", "counterclockwise"; but not "bright", "wright", "fright", "upright", "copyright".
# "east" and "north-western" of a map; "3 o'clock".
_SIDE = re.compile(
    r"left|(?<![bwf])(?<!up)(?<!copy)right|clockwise"
    r"|\b(?:north|south)?-?(?:east|west)(?:ern|wards?|most)?\b|o['\u2019]clock",
    re.IGNORECASE,
)
# <bbox>, <|box_start|>, <loc0123>, <patch_index_0044>; x="63.5", x1=0.1; [0.1, 0.2 and (10, 20
_BOX = re.compile(
    r"<\|?(?:b?box|loc|patch_index)|\bx\d*\s*[=:]\s*[\"']?-?\.?\d"
    r"|[\[({<]\s*-?\d*\.?\d+\s*,\s*-?\d*\.?\d+",
    re.IGNORECASE,
)


def is_flipped(sample_key: str, epoch: int, share: float) -> bool:
    """Drawn for every sample and epoch, in this share of cases: a pure function."""
    drawn = blake2b(f"{sample_key}/{epoch}/flip".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "little") < share * 2**64


def may_flip(sample: Sample) -> bool:
    """Whether no message says left or right, east or west, in any form of these words, or holds a box or a point."""
    return not any(_SIDE.search(message.text) or _BOX.search(message.text) for message in sample.messages)


def flipped(sample: Sample) -> Sample:
    """The sample with its pictures mirrored; the sample itself where that would make it untrue.

    Raises:
        ImageError: a picture cannot be read.
    """
    if not may_flip(sample):
        return sample
    return sample.model_copy(update={"messages": tuple(map(_flipped_message, sample.messages))})


def _flipped_message(message: Message) -> Message:
    return message.model_copy(update={"content": tuple(map(_flipped_part, message.content))})


def _flipped_part(part: Part) -> Part:
    if not isinstance(part, ImagePart):
        return part
    return ImagePart(image=open_image(part.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
