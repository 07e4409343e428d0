"""A source's settings, which its reader is opened with by their names."""

from __future__ import annotations

from inspect import signature
from typing import get_args

import pytest

from mutua.data.readers import Source
from mutua.data.readers.settings import Settings


@pytest.mark.parametrize("settings", get_args(get_args(Source)[0]), ids=lambda settings: settings.__name__)
def test_they_are_what_the_reader_takes_with_its_defaults(settings: type[Settings]) -> None:
    taken = {name: parameter.default for name, parameter in signature(settings.reader).parameters.items()}
    fields = {name: field for name, field in settings.model_fields.items() if name != "type"}
    assert list(fields) == list(taken)
    for name, field in fields.items():
        assert field.is_required() or field.default == taken[name]
