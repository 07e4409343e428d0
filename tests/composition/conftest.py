"""Models put together from saved parts, one for every vision encoder and every language model."""

from __future__ import annotations

import pytest
from tiny_parts import LANGUAGE, VISION, Composed, compose_from_folders


@pytest.fixture(scope="module", params=[("siglip", name) for name in LANGUAGE], ids=lambda pair: pair[1])
def by_language(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    return compose_from_folders(tmp_path_factory.mktemp("parts"), *request.param)


@pytest.fixture(scope="module", params=[(name, "llama") for name in VISION], ids=lambda pair: pair[0])
def by_vision(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    return compose_from_folders(tmp_path_factory.mktemp("parts"), *request.param)
