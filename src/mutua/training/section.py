"""What the sections of a recipe have in common."""

from __future__ import annotations

from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Every section is immutable and knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def sections_of(annotation: Any) -> tuple[type[Section], ...]:
    """The sections that a key may hold (`X`, `X | None`, a union of kinds); empty where it holds anything else."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    choices = tuple(get_args(choice)[0] if get_origin(choice) is Annotated else choice for choice in choices)
    return tuple(choice for choice in choices if isinstance(choice, type) and issubclass(choice, Section))


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a key holds, None where there is none, or more than one kind of it."""
    sections = sections_of(annotation)
    return sections[0] if len(sections) == 1 else None


def expect_known(what: str, given: Any, allowed: Iterable[str]) -> Any:
    """ValueError that names the first of `given` that is not among the allowed, and those."""
    for name in given:
        if name not in allowed:
            raise ValueError(f"no {what} {name!r}; allowed: {', '.join(sorted(allowed))}")
    return given
