"""Boxes as the prompts about a region write them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from mutua.data.answer_box import Box

Boxes: TypeAlias = Literal["fractions", "thousandths"]
"""Corners divided by width and height, with three decimals, or as whole thousandths."""


def box_in_picture(x: float, y: float, width: float, height: float, of_width: int, of_height: int) -> Box:
    """A box in pixels (its left upper corner, width and height) as fractions; what lies outside the picture is cut off.

    Raises:
        ValueError: nothing of it is in the picture.
    """
    if of_width <= 0 or of_height <= 0:
        raise ValueError(f"the picture is {of_width} x {of_height}: its width and height are positive")
    left, right = (min(max(edge / of_width, 0.0), 1.0) for edge in (x, x + width))
    top, bottom = (min(max(edge / of_height, 0.0), 1.0) for edge in (y, y + height))
    if not (left < right and top < bottom):  # so that NaN is refused, too
        raise ValueError(
            f"the box (x {x}, y {y}, width {width}, height {height}) has no part in a picture of {of_width} x "
            f"{of_height}"
        )
    return Box(left, top, right, bottom)


def box_text(box: Box, form: Boxes) -> str:
    left, top, right, bottom = (f"{edge:.3f}" if form == "fractions" else str(round(1000 * edge)) for edge in box)
    return f"<bbox>[{left}, {top}][{right}, {bottom}]</bbox>"
