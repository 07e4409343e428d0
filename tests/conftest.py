"""Fixtures of every test: no network, and a tiny random model (see tiny_model.py)."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is a bug
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and consoles would fit tables to it

import pytest
import torch
from hypothesis import settings
from tiny_model import make_model, make_processor

from mutua.models import MutuaForConditionalGeneration, MutuaProcessor

settings.register_profile("mutua", deadline=None)  # the time that an example takes is that of a busy machine
settings.load_profile("mutua")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUTUA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", params=["mma", "causal"])
def policy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def model() -> MutuaForConditionalGeneration:
    return make_model("mma")


@pytest.fixture(scope="session")
def processor() -> MutuaProcessor:
    return make_processor(make_model())


@pytest.fixture(scope="session")
def saved_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of someone else's, which no test may change."""
    from unlocked_pairs import save_llava  # many families of Transformers, which take their time

    folder = tmp_path_factory.mktemp("llava")
    save_llava(folder)
    return folder


@pytest.fixture
def encode(processor: MutuaProcessor):
    """messages -> model inputs; keyword arguments as in `apply_chat_template`, `side` for the padding side."""

    def encode(messages: list, side: str = "left", **kwargs: object) -> dict[str, torch.Tensor]:
        out = processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding_side": side},
            **kwargs,
        )
        return dict(out)

    return encode
