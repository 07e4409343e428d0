"""A report as one HTML file that needs no other, and as Markdown with its pictures beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 66em; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { font-size: 1.25em; margin-top: 2em; border-top: 1px solid #ccc; padding-top: 1em }
figure { margin: 1em 0 } figure img { max-width: 100%; height: auto }
figcaption, .source { color: #666; font-size: .9em }
.wide { overflow-x: auto; margin: 1em 0 } table { border-collapse: collapse; font-size: .87em }
caption { text-align: left; color: #666; padding-bottom: .3em }
th, td { padding: .2em .7em; border-bottom: 1px solid #e4e4e4; text-align: right; white-space: nowrap }
th { color: #555; font-weight: 600; border-bottom: 1px solid #999 }
th.word, td.word { text-align: left }
details { margin: 1em 0 } code { font-size: .95em }
article { border-top: 1px solid #ccc; padding: 1em 0 } article img { border: 1px solid #ddd; margin: .3em .5em .3em 0 }
h3 { font-size: 1em; color: #555 } p.said { margin: .3em 0; white-space: pre-wrap }
p.said b { color: #777; font-weight: normal; margin-right: .7em }
"""
_WIDEST = 320  # pixels of a thumbnail, at most, in either direction


class Strong(str):
    """A cell to stand out: a difference whose interval leaves out 0."""


@dataclass(frozen=True)
class Table:
    """Rows below their header: the first `words` columns hold words, others numbers. `folded`: opens on a click."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """The stem of a file name, what the picture shows, and how it is drawn: a function to a matplotlib figure."""

    name: str
    caption: str
    draw: Callable[[], Any]

    def image(self) -> Image.Image:
        """Drawn now, in at most 128 colours, which is a third of the size of a file and looks the same."""
        figure = self.draw()
        figure.canvas.draw()  # once, where `savefig` draws twice
        image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
        return image.quantize(128, dither=Image.Dither.NONE)


@dataclass(frozen=True)
class Example:
    """Something to look at: what was said and shown, each behind who did so. HTML alone has examples."""

    heading: str
    said: Sequence[tuple[str, str | Image.Image]]


@dataclass(frozen=True)
class Section:
    """What one file says: sentences, pictures, tables, examples. `source` names the file, if the heading does not."""

    heading: str
    source: str = ""
    sentences: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Page:
    title: str
    sections: Sequence[Section]
    facts: Mapping[str, str] = field(default_factory=dict)  # command, versions, machine: how it was made
    notes: Sequence[str] = ()  # how to read it


def to_html(page: Page, drawn: Mapping[str, Image.Image]) -> str:
    """`drawn`: the pictures, by name; they become part of the page."""
    title = escape(page.title)
    parts = [
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>"
    ]
    if page.facts:
        rows = "".join(
            f'<tr><td class="word">{escape(name)}</td><td class="word"><code>{escape(value)}</code></td></tr>'
            for name, value in page.facts.items()
        )
        parts.append(f'<div class="wide"><table>{rows}</table></div>')
    parts += [f"<p>{escape(note)}</p>" for note in page.notes]
    for section in page.sections:
        parts.append(f"<h2>{escape(section.heading)}</h2>")
        if section.source:
            parts.append(f'<p class="source">From {escape(section.source)}.</p>')
        if section.sentences:
            parts.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in section.sentences) + "</ul>")
        for shown in section.pictures:
            source, caption = _inline(drawn[shown.name]), escape(shown.caption)
            parts.append(f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
        parts += map(_html_table, section.tables)
        parts += map(_html_example, section.examples)
    return "\n".join(parts) + "\n</html>\n"


def _thumbnail(picture: Image.Image) -> str:
    """An HTML image, small, that needs no file."""
    small = picture.convert("RGB")
    small.thumbnail((_WIDEST, _WIDEST))
    size = f"{picture.width} x {picture.height}"
    return f'<img src="{_inline(small)}" alt="{size}" title="{size}">'


def _inline(image: Image.Image) -> str:
    """As a part of a page: WebP without loss, which is two thirds of a PNG, and which every browser shows."""
    held = BytesIO()
    image.save(held, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(held.getvalue()).decode()}"


def _html_example(example: Example) -> str:
    def shown(part: str | Image.Image) -> str:
        return escape(part) if isinstance(part, str) else _thumbnail(part)

    said = "".join(f'<p class="said"><b>{escape(who)}</b>{shown(part)}</p>' for who, part in example.said)
    return f"<article>\n<h3>{escape(example.heading)}</h3>\n{said}\n</article>"


def _html_table(table: Table) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        kind = ' class="word"' if column < table.words else ""
        inner = f"<b>{escape(text)}</b>" if isinstance(text, Strong) else escape(text)
        return f"<{tag}{kind}>{inner}</{tag}>"

    header = "".join(cell("th", column, text) for column, text in enumerate(table.header))
    rows = "\n".join(
        "<tr>" + "".join(cell("td", column, text) for column, text in enumerate(row)) + "</tr>" for row in table.rows
    )
    caption = "" if table.folded else f"<caption>{escape(table.caption)}</caption>"
    out = f'<div class="wide"><table>{caption}<tr>{header}</tr>\n{rows}</table></div>'
    return f"<details><summary>{escape(table.caption)}</summary>{out}</details>" if table.folded else out


def to_markdown(page: Page, pictures: str) -> str:
    """As GitHub shows it; `pictures` is the folder of the pictures, as seen from the page."""
    parts = [f"# {_plain(page.title)}"]
    if page.facts:
        parts.append("\n".join(f"- {_plain(name)}: `{value}`" for name, value in page.facts.items()))
    parts += map(_plain, page.notes)
    for section in page.sections:
        parts.append(f"## {_plain(section.heading)}")
        if section.source:
            parts.append(f"From `{section.source}`.")
        if section.sentences:
            parts.append("\n".join(f"- {_plain(text)}" for text in section.sentences))
        for shown in section.pictures:
            parts += [f"![{_plain(shown.caption)}]({pictures}/{shown.name}.png)", f"*{_plain(shown.caption)}*"]
        parts += map(_markdown_table, section.tables)
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(f"**{_plain(text)}**" if isinstance(text, Strong) else _plain(text) for text in cells)
            + " |"
        )

    rule = "|" + "|".join("---" if column < table.words else "---:" for column in range(len(table.header))) + "|"
    rows = "\n".join([line(table.header), rule, *map(line, table.rows)])
    if table.folded:
        return f"<details><summary>{escape(table.caption)}</summary>\n\n{rows}\n\n</details>"
    return f"{_plain(table.caption)}\n\n{rows}"


def _plain(text: str) -> str:
    """Without what Markdown would take for its own."""
    for mark in "\\`*_[]<>|$":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
