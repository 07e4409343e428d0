"""A picture of where models look: the scene, and the same scene under a heat map for each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

from PIL.Image import Image
from torch import Tensor

from mutua.figures import blank_figure

_SIDE, _PANELS_A_ROW = 3.2, 4  # inches
_FLATTEST, _TALLEST = 0.5, 1.6  # height over width of a panel; a picture beyond it is stretched
_LETTERS_AN_INCH, _LONGEST = 9, 400  # of titles; characters of a question
_PALER, _OPACITY = 100, 0.65


@dataclass(frozen=True)
class Said:
    """What a model answered, and whether that is right; None where nobody knows."""

    answer: str
    is_right: bool | None = None


def draw_looks(
    path: str | Path, picture: Image, question: str, maps: Mapping[str, Tensor], answers: Mapping[str, Said]
) -> None:
    """Writes a PNG or SVG, by the suffix of `path`: the picture, and once more for each name in `maps`.

    All maps share one scale: how the look at the picture is shared out among its patches.

    Args:
        maps: how much of the answer comes from each patch, (S, S) each, such as `Looks.rollout_BSS[0]`.
        answers: by the same names.

    Raises:
        ImportError: matplotlib is missing.
    """
    panels = 1 + len(maps)
    columns = min(panels, _PANELS_A_ROW)
    rows = math.ceil(panels / columns)
    columns = math.ceil(panels / rows)  # as even as can be
    shape = min(max(picture.height / picture.width, _FLATTEST), _TALLEST)
    heading = fill(shorten(question, _LONGEST, placeholder="…"), int(_LETTERS_AN_INCH * columns * _SIDE))
    lines = 1 + heading.count("\n")
    figure = blank_figure(columns * _SIDE + 1.0, rows * (_SIDE * shape + 0.6) + 0.25 + 0.25 * lines)
    figure.set_layout_engine("compressed")  # no room beside panels that keep the picture's shape
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in axes:
        panel.set_axis_off()
        panel.set_box_aspect(shape)
    figure.suptitle(heading, fontsize=12, parse_math=False)
    whole: dict[str, Any] = {"extent": (0, 1, 1, 0), "aspect": "auto"}  # so picture and map lie on each other
    axes[0].imshow(picture, **whole)
    axes[0].set_title("the picture", fontsize=10)
    shares = {name: (map_SS / map_SS.sum()).numpy() for name, map_SS in maps.items()}
    hottest = max(shares_SS.max() for shares_SS in shares.values())
    for panel, (name, shares_SS) in zip(axes[1:], shares.items(), strict=False):
        # Paler than it is, for the map to show on what is dark, too.
        panel.imshow(picture.convert("L"), cmap="gray", vmin=-_PALER, vmax=255, **whole)
        of_map: dict[str, Any] = {"cmap": "Reds", "vmin": 0, "vmax": hottest, "alpha": _OPACITY}
        heat = panel.imshow(shares_SS, interpolation="nearest", **of_map, **whole)
        panel.set_title(_title(name, answers[name]), fontsize=10, parse_math=False)
    bar = figure.colorbar(heat, ax=list(axes), shrink=0.9, format=lambda share, _: f"{100 * share:.3g} %")
    bar.set_label("share of the attention\nto the picture", fontsize=9)
    figure.savefig(path, bbox_inches="tight")


def _title(name: str, said: Said) -> str:
    """Who, and below it what was said."""
    width = int(_LETTERS_AN_INCH * _SIDE)
    who = name if len(name) <= width else f"…{name[1 - width :]}"  # of a path, the end tells it from others
    verdict = {None: "", True: " (right)", False: " (wrong)"}[said.is_right]
    return f"{who}\n{shorten(said.answer, width - len(verdict), placeholder='…') or 'no answer'}{verdict}"
