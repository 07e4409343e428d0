"""Recipes as YAML files: read, overridden from the command line, checked, written back.

Every error names the file, the key, the value and what would be right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mutua.data.readers import Source
from mutua.shortened import shortened
from mutua.training.model_settings import KINDS
from mutua.training.recipe import SEED_KINDS, Recipe, Seeds
from mutua.training.section import section_of, sections_of

_DEEPEST = 50  # a recipe needs six
_PACKAGE = Path(__file__).parents[1]  # where it was installed from a wheel, it has the recipes of the repository


class RecipeError(ValueError):
    """A recipe is wrong; one line per mistake."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        path: a YAML file.
        overrides: `key.inside=value` each, in order; the value is YAML, and a number in the key picks from a list
            (`data.train.0.weight=2`).

    Raises:
        RecipeError: the file cannot be read, or a key or value is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        shipped = _PACKAGE / path
        remedy = f"; the package has it as {shipped}" if shipped.is_file() and shipped != Path(path) else ""
        raise RecipeError(f"{path}: cannot be read: {error.strerror}{remedy}") from None
    except ValueError as error:
        raise RecipeError(f"{path}: no text in UTF-8: {error}") from None
    content = _parse(text, str(path))
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: holds no keys; a recipe has the keys {', '.join(Recipe.model_fields)}")
    for override in overrides:
        _override(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{path}: {_explain(one)}" for one in _causes(error.errors()))) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out; `load_recipe` reads it back to an equal recipe."""
    return _yaml().safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _yaml() -> ModuleType:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('recipes need PyYAML: pip install "mutua[train]"') from error
    return yaml


def _parse(text: str, place: str) -> Any:
    """What the YAML says. RecipeError, which begins with the place, where it is none, or what no recipe needs."""
    yaml = _yaml()
    try:
        return yaml.load(text, Loader=_loader(yaml))
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no such date
        raise RecipeError(f"{place}: not YAML: {' '.join(str(error).split())}") from None


def _loader(yaml: ModuleType) -> Any:
    """PyYAML's safe loader, which also takes `1e-3` for a number, and refuses a key that is there twice (as YAML 1.2
    does), one that is no name, and what is nested so deep that reading it would end in a RecursionError."""

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined, misc]
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > _DEEPEST:
                raise RecipeError(f"lists or mappings are nested deeper than {_DEEPEST}")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            lines: dict[str, int] = {}
            for key_node, _ in node.value:
                key, line = key_node.value, key_node.start_mark.line + 1
                if not isinstance(key, str):
                    raise RecipeError(f"line {line}: a key is a name, not a list or a mapping")
                if key in lines:
                    raise RecipeError(f"the key {key!r} is there twice, in lines {lines[key]} and {line}: remove one")
                lines[key] = line
            return node

    number = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def _override(content: dict[str, Any], override: str) -> None:
    """Puts one `key.inside=value` into the recipe's content."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: write it as key.inside=value, e.g. train.steps=100")
    value = _parse(text, f"--set {shortened(override)}")
    *parents, last = key.split(".")
    place: Any = content
    for parent in parents:
        if isinstance(place, dict) and place.get(parent) is None:
            place[parent] = {}
        place = place[_item(place, parent, override)]
    place[_item(place, last, override)] = value


def _item(place: Any, key: str, override: str) -> Any:
    """`key` as `place` takes it: a name in a mapping, a number in a list."""
    if isinstance(place, dict):
        return key
    if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
        return int(key)
    held = f"a list of {len(place)}" if isinstance(place, list) else repr(place)
    raise RecipeError(f"--set {override}: {key!r} does not lead on, the recipe has {held} there")


_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "path_type": "a path",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "union_tag_invalid": "type: {expected_tags}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "at least {min_length} characters",
}


def _causes(errors: Sequence[Any]) -> list[Any]:
    """Without those that say of a list what follows from a mistake inside it: that it has too few entries."""
    places = [error["loc"] for error in errors]
    return [
        error
        for error in errors
        if error["type"] != "too_short"
        or not any(place != error["loc"] and place[: len(error["loc"])] == error["loc"] for place in places)
    ]


def _explain(error: Any) -> str:
    """One of pydantic's errors as `key: what is wrong, what would be right`."""
    keys, section = _walk(error["loc"])
    key, kind, value = ".".join(keys), error["type"], error["input"]
    if kind == "extra_forbidden":
        allowed = list(section.model_fields) if section else []
        close = difflib.get_close_matches(keys[-1], allowed, 1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        return f"{key}: unknown key;{hint} allowed: {', '.join(allowed)}"
    if kind == "missing":
        field = section.model_fields.get(keys[-1]) if section else None
        return f"{key}: is missing" + (f" ({field.description})" if field and field.description else "")
    if kind == "union_tag_not_found":
        return f"{key}: needs a `type`: {', '.join(_tags())}"
    if kind in _EXPECTED:
        return f"{key}: got {shortened(repr(value))}, expected {_EXPECTED[kind].format(**error.get('ctx', {}))}"
    problem = error["msg"].removeprefix("Value error, ")
    return f"{key}: {problem}" if kind == "value_error" else f"{key}: got {shortened(repr(value))}: {problem}"


def _walk(location: Sequence[str | int]) -> tuple[list[str], type[BaseModel] | None]:
    """The keys of an error as the file has them, and the section that holds the last of them.

    pydantic names the chosen kind of a source, a model or a seed among the keys; the file does not: it is left out.
    """
    keys: list[str] = []
    section: type[BaseModel] | None = Recipe
    inside: Any = Recipe
    for step in location:
        if step in (kinds := _kinds(inside)):
            inside = kinds[str(step)]
            continue
        keys.append(str(step))
        section = inside if _is_section(inside) else None
        field = section.model_fields.get(str(step)) if section else None
        inside = _entry(inside) if field is None else section_of(field.annotation) or field.annotation
    return keys, section


def _kinds(inside: Any) -> Mapping[str, type]:
    """What may stand in this place, by the names that pydantic has for it, where there are several kinds."""
    if inside in (Source, get_args(Source)[0]):
        return _tags()
    if inside is Seeds:
        return SEED_KINDS
    return KINDS if sections_of(inside) == tuple(KINDS.values()) else {}


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _entry(container: Any) -> Any:
    """What a `tuple[X, ...]` or a `dict[str, X]` holds."""
    arguments = [argument for argument in get_args(container) if argument is not Ellipsis]
    return arguments[-1] if arguments else None


def _tags() -> dict[str, type[BaseModel]]:
    """The sources by their `type`."""
    return {source.model_fields["type"].default: source for source in get_args(get_args(Source)[0])}
