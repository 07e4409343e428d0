"""Samples on a page to look at: pictures among what is said about them. One HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from mutua.data.sample import ImagePart, Sample, TextPart
from mutua.page import Example, Page, Section, to_html


def sheet(samples: Mapping[str, Sequence[Sample]]) -> str:
    """The samples of each source, by its name, as an HTML page."""
    sections = [Section(name, examples=[_example(sample) for sample in some]) for name, some in samples.items()]
    return to_html(Page(", ".join(samples), sections), {})


def _example(sample: Sample) -> Example:
    said = [(message.role, _shown(part)) for message in sample.messages for part in message.content]
    return Example(sample.id, said)


def _shown(part: TextPart | ImagePart) -> str | Image.Image:
    if isinstance(part, TextPart):
        return part.text
    return part.image if isinstance(part.image, Image.Image) else str(part.image)
