"""The drawn mask is the mask."""

from __future__ import annotations

import pytest
from PIL import Image
from typer.testing import CliRunner

from mutua.attention import allowed_mask, get_policy
from mutua.cli import app
from mutua.inspection.draw import as_text, cells, sketch

CHAT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "which is red?"}]},
    {"role": "assistant", "content": "the circle"},
]


def test_cells_are_the_mask():
    drawn = sketch(CHAT, image_tokens=2)
    assert drawn.labels == (
        *("user:", "image 1", "image 1", "which", "is", "red?"),
        *("assistant:", "the", "circle"),
    )
    rows = cells(drawn, get_policy("mma"))
    assert [[cell > 0 for cell in row] for row in rows] == allowed_mask(get_policy("mma"), drawn.roles)[0].tolist()
    assert rows[1] == [1, 1, 0, 2, 2, 2, 2, 0, 0]


def test_text_has_a_line_a_token():
    drawn = sketch(CHAT, image_tokens=2)
    assert len(as_text(drawn, get_policy("causal")).splitlines()) == 1 + len(drawn.labels)
    assert "◆" not in as_text(drawn, get_policy("causal"))
    assert "◆" in as_text(drawn, get_policy("mma"))


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="the conversation is empty"):
        sketch([])


def test_command_writes_png_and_svg(tmp_path):
    for name in ("mask.png", "mask.svg"):
        done = CliRunner().invoke(app, ["mask", "-p", "mma", "-p", "prefix", "-o", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "mask.png").width > 300
    assert "<svg" in (tmp_path / "mask.svg").read_text()


def test_command_refuses_other_formats(tmp_path):
    done = CliRunner().invoke(app, ["mask", "-o", str(tmp_path / "mask.gif")])
    assert done.exit_code == 1
    assert ".png or .svg" in done.stderr
