"""Samples on a page to look at: pictures beside what is said about them. One HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from mutua.data.sample import ImagePart, Sample, TextPart
from mutua.page import thumbnail

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }
article { border-top: 1px solid #ccc; padding: 1em 0 }
h3 { font-size: 1em; color: #555 }
img { display: block; margin: .5em 0; image-rendering: auto; border: 1px solid #ddd }
p { margin: .3em 0; white-space: pre-wrap }
b { color: #777; font-weight: normal; margin-right: .7em }
.assistant { color: #06590d }
"""


def sheet(samples: Mapping[str, Sequence[Sample]]) -> str:
    """The samples of each source, by its name, as an HTML page."""
    sections = [
        f"<h2>{escape(name)}</h2>\n" + "\n".join(_article(sample) for sample in some) for name, some in samples.items()
    ]
    return (
        f'<!doctype html>\n<meta charset="utf-8">\n<title>{escape(", ".join(samples))}</title>\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(sections) + "\n"
    )


def _article(sample: Sample) -> str:
    turns = "\n".join(
        f'<div class="{message.role}">' + "".join(_part(part, message.role) for part in message.content) + "</div>"
        for message in sample.messages
    )
    return f"<article>\n<h3>{escape(sample.id)}</h3>\n{turns}\n</article>"


def _part(part: TextPart | ImagePart, role: str) -> str:
    if isinstance(part, TextPart):
        return f"<p><b>{role}</b>{escape(part.text)}</p>"
    if not isinstance(part.image, Image.Image):
        return f"<p>{escape(str(part.image))}</p>"
    return thumbnail(part.image)
