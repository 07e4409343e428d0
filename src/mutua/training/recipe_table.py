"""The keys of a recipe as a Markdown table, for docs/training.md: `python -m mutua.training.recipe_table`."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mutua.training.recipe import Recipe, WeightedSource
from mutua.training.section import sections_of


def recipe_table() -> str:
    """One row per key, sections unfolded, and a row above the keys of each kind where a section has several."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    rows += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _rows(Recipe, "")]
    return "\n".join(rows) + "\n"


def _rows(section: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in section.model_fields.items():
        key, inside = f"{prefix}{name}", field.annotation
        rows.append((key, _default(field), (field.description or "").replace("|", "\\|")))
        if WeightedSource in get_args(inside):
            rows += _rows(WeightedSource, f"{key}.N.")
        elif kinds := sections_of(inside):
            rows[-1] = (key, "" if field.is_required() else rows[-1][1], rows[-1][2])
            for kind in kinds:
                if len(kinds) > 1:
                    summary = (kind.__doc__ or "").split("\n")[0]
                    rows.append((key, "", f"one kind: {summary[:1].lower()}{summary[1:]}"))
                rows += _rows(kind, f"{key}.")
    return rows


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if isinstance(value, tuple):
        value = list(value)
    return (
        ""
        if value is None or isinstance(value, BaseModel)
        else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


if __name__ == "__main__":
    print(recipe_table(), end="")
