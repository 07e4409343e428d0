"""The report of a study, from the CSV files beside it: one HTML file that needs no other, and Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mutua.folders import whole_file
from mutua.page import Page, to_html, to_markdown
from mutua.study.model_sections import cost_section, look_section, yes_section
from mutua.study.results import CostRow, LookRow, PairRow, ScoreRow, YesRow, read_rows
from mutua.study.sections import score_sections

ABOUT = "study.json"  # the command, versions, machine, start and plan
PICTURES = "figures"
_FILES = (ScoreRow, PairRow, YesRow, CostRow, LookRow)
_NOTES = (
    "Arms of one seed that are compared start from the same weights and see the same samples in the same order; they "
    "differ in the policy only, or, where that is named, in the order of picture and question. An interval over seeds "
    "(Student's t) speaks of other seeds with the same vision encoder on the same test questions; an interval over "
    "questions (one seed) speaks of other questions to the same models. Where an interval holds 0, no difference is "
    "seen, which is not to say that there is none. Nothing is corrected for the number of comparisons; beside them "
    "stands how many would leave out 0 by chance.",
    "A model is named by its language model and its connector. Families of grid ask, for example: attribute, colour of "
    "circle?; exists, any red circle?; relation, colour left of red circle? Those of pope ask as exists does, and no "
    "model is trained on them; the object that is not there is of any kind (random), of a frequent one (popular), or "
    "one whose colour and whose shape are there, apart (adversarial).",
)


def write_report(folder: Path) -> Path:
    """Writes report.html, report.md and figures/*.png from the CSV files and study.json that are in the folder.

    Returns the path of report.html.

    Raises:
        ValueError: there are no results, or a file is damaged.
        FolderError: something cannot be written.
        ImportError: matplotlib is missing.
    """
    scores, pairs = read_rows(folder, ScoreRow), read_rows(folder, PairRow)
    yes, costs, looks = read_rows(folder, YesRow), read_rows(folder, CostRow), read_rows(folder, LookRow)
    if not any((scores, pairs, yes, costs, looks)):
        names = ", ".join(kind.FILE for kind in _FILES)
        raise ValueError(f"{folder}: there are no results to report: none of {names} is there with a row in it.")
    about = _about(folder)
    sections = score_sections(scores, pairs, about.pop("missing", {}))
    if yes:
        sections.append(yes_section(yes))
    if costs:
        sections.append(cost_section(costs))
    if looks:
        sections.append(look_section(looks))
    page = Page("What the attention policy changes", sections, dict(_lines(about)), _NOTES)
    (folder / PICTURES).mkdir(exist_ok=True)
    pictures = [shown for section in sections for shown in section.pictures]
    if twice := [name for name, count in Counter(shown.name for shown in pictures).items() if count > 1]:
        raise ValueError(
            f"{folder}: two figures would be named {twice[0]}.png: two blocks or measures have like names."
        )
    drawn = {shown.name: shown.image() for shown in pictures}
    for name, image in drawn.items():
        with whole_file(folder / PICTURES / f"{name}.png") as write:
            write(partial(image.save, optimize=True))
    _write(folder / "report.md", to_markdown(page, PICTURES))
    _write(folder / "report.html", to_html(page, drawn))
    return folder / "report.html"


def _write(path: Path, text: str) -> None:
    with whole_file(path) as write:
        write(lambda place: place.write_bytes(text.encode()))


def _about(folder: Path) -> dict[str, Any]:
    """What study.json says; ValueError where it is damaged."""
    path = folder / ABOUT
    if not path.exists():
        return {"made by": f"not known: {ABOUT} is not beside the results"}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}). Mend it, or remove it and run the same study again.") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: holds {type(about).__name__}, not an object. Remove it and run the study again.")
    return about


def _lines(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _lines(inner, f"{name}, {key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    else:
        yield name, str(value)
