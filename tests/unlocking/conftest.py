"""An unlocked model of the family that a test file names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from unlocked_families import Family, pattern

import mutua


@pytest.fixture
def model(family: Family) -> Iterator[Any]:
    yield mutua.unlock(family.model(), pattern())
    mutua.lock(family.model())
