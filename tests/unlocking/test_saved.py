"""A model that was saved unlocked: whoever loads it is asked to unlock it again, or has it unlocked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM, pipeline
from unlocked_families import FAMILIES, PROMPT, Family, pattern
from unlocked_pairs import llava
from vlm_processors import CHATS

import mutua
from mutua.unlocking import is_unlocked, policy_of

NOTED = {"auto_map", "mutua", "_attn_implementation"}  # in the config


@pytest.fixture(
    params=[pytest.param(family, id=family.name, marks=[pytest.mark.slow] * family.slow) for family in FAMILIES]
)
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    yield request.param
    mutua.lock(request.param.model())


def test_it_is_never_causal_without_a_word(family: Family, tmp_path: Path):
    """Not even where a loader names an attention implementation, or None, as `transformers serve` does."""
    model = mutua.unlock(family.model(), pattern())
    model.save_pretrained(tmp_path)
    inputs, _ = family.batch([PROMPT])
    for given in ({}, {"attn_implementation": None}, {"attn_implementation": "sdpa"}):
        again = AutoModelForMultimodalLM.from_pretrained(tmp_path, **given)
        with pytest.raises(TypeError, match=r"mutua\.unlock\(model, processor\)"):
            again(**inputs)
    with torch.no_grad():
        assert torch.equal(mutua.unlock(again, pattern())(**inputs).logits, model(**inputs).logits)
        assert torch.equal(mutua.lock(again)(**inputs).logits, mutua.lock(model)(**inputs).logits)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any, Any]]:
    folder = tmp_path_factory.mktemp("saved")
    model, processor = llava()
    for part in (mutua.unlock(model, processor, policy="prefix"), processor):
        part.save_pretrained(folder)
    yield folder, model, processor
    mutua.lock(model)


def encoded(processor: Any) -> dict[str, Any]:
    chat = CHATS["two turns"]
    return dict(processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt"))


def test_with_trust_it_is_unlocked_as_it_was(saved: tuple[Path, Any, Any], tmp_path: Path):
    folder, model, processor = saved
    inputs = encoded(processor)
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        again = auto.from_pretrained(folder, trust_remote_code=True)
        assert type(again) is type(model)
        assert policy_of(again) == "prefix"
        with torch.no_grad():
            assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    again.save_pretrained(tmp_path)
    assert (tmp_path / "modeling_mutua.py").read_text() == (folder / "modeling_mutua.py").read_text()
    old, new = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    assert [new[key] for key in NOTED] == [old[key] for key in NOTED]
    asks = pipeline("image-text-to-text", model=str(folder), trust_remote_code=True)
    assert is_unlocked(asks.model)


def test_locked_on_purpose_it_is_an_ordinary_model_again(saved: tuple[Path, Any, Any], tmp_path: Path):
    folder, _, processor = saved
    mutua.lock(AutoModelForImageTextToText.from_pretrained(folder)).save_pretrained(tmp_path)
    assert not NOTED & json.loads((tmp_path / "config.json").read_text()).keys()
    assert not (tmp_path / "modeling_mutua.py").exists()
    AutoModelForImageTextToText.from_pretrained(tmp_path)(**encoded(processor))


@pytest.mark.slow
def test_without_mutua_it_cannot_be_loaded(saved: tuple[Path, Any, Any]):
    code = f"""
import transformers as t
for given in ({{}}, {{"attn_implementation": None}}, {{"attn_implementation": "sdpa"}}):
    try:
        t.AutoModelForImageTextToText.from_pretrained({str(saved[0])!r}, **given)
    except ValueError as error:
        print("mutua_auto" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * 3, done.stderr


def test_a_refused_unlock_leaves_it_as_it_was(saved: tuple[Path, Any, Any]):
    folder, _, processor = saved
    inputs = encoded(processor)
    again = AutoModelForImageTextToText.from_pretrained(folder)
    for wrong in ({"policy": "concentric"}, {"backend": "flash_attention_2"}):
        with pytest.raises(ValueError, match=r"concentric|flash"):
            mutua.unlock(again, processor, **wrong)
        with pytest.raises(TypeError, match=r"mutua\.unlock\(model, processor\)"):
            again(**inputs)


def test_a_refused_change_leaves_it_unlocked():
    """Of two backends the second takes no sliding windows, as shows only when it is tried."""
    family = next(family for family in FAMILIES if family.name == "gemma3")
    inputs, _ = family.batch([PROMPT])
    model = mutua.unlock(family.model(), pattern(), policy="prefix")
    with torch.no_grad():
        before = model(**inputs).logits
        with pytest.raises(ValueError, match="sliding window"):
            mutua.unlock(model, pattern(), backend="split")
        assert policy_of(model) == "prefix"
        assert torch.equal(model(**inputs).logits, before)
    mutua.lock(model)
