"""Locked and unlocked on the same samples: what must be the same is, and what is said is what was seen."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn
from unlocked_pairs import llava, qwen2_5_vl

import mutua
from mutua.data.sample import Sample
from mutua.evaluation.accuracy import Accuracy, Record
from mutua.evaluation.calibrate import Calibration, ReplyLoss, calibrate
from mutua.unlocking import is_unlocked

WORDS = ("yes", "no it is not", "a small red circle")


def sample(number: int) -> Sample:
    picture = Image.effect_noise((48, 48), 20 + 40 * number).convert("RGB")
    asked = [{"type": "image", "image": picture}, {"type": "text", "text": "what is this " + "and this " * number}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": WORDS[number % len(WORDS)]}]
    return Sample.model_validate({"id": str(number), "messages": messages})


SAMPLES = [sample(number) for number in range(3)]


@pytest.mark.parametrize("pair", [llava, qwen2_5_vl])
def test_causal_is_the_locked_model_to_the_last_digit(pair):
    model, processor = pair()
    found = calibrate(model, processor, SAMPLES, "causal", batch_size=2, max_new_tokens=3)
    assert [loss.locked for loss in found.losses] == [loss.unlocked for loss in found.losses]
    assert found.locked == found.unlocked
    assert found.said == "Unlocked, it is the same on 3 samples."
    assert not is_unlocked(model)


def test_the_loss_is_the_models_own():
    """Against the loss that Transformers computes of the same labels, locked and unlocked, one sample at a time."""
    from mutua.data.collate import encode

    model, processor = llava()
    found = calibrate(model, processor, SAMPLES, batch_size=2, max_new_tokens=1)
    for unlocked in (False, True):
        if unlocked:
            mutua.unlock(model, processor)
        try:
            for one, loss in zip(SAMPLES, found.losses, strict=True):
                batch = encode([one], processor)
                batch.pop("token_roles")
                with torch.no_grad():
                    expected = float(model(**batch).loss)
                assert (loss.unlocked if unlocked else loss.locked) == pytest.approx(expected, abs=1e-5)
                assert loss.tokens == int((batch["labels"] != -100).sum())
        finally:
            mutua.lock(model)
    assert found.locked_loss == pytest.approx(
        sum(loss.locked * loss.tokens for loss in found.losses) / sum(loss.tokens for loss in found.losses)
    )
    assert found.losses[0].locked != found.losses[0].unlocked


def result(rises: list[float], right: str, was_right: str, **changes: object) -> Calibration:
    losses = tuple(ReplyLoss(str(n), 2, 1.0, 1.0 + rise) for n, rise in enumerate(rises))
    locked, unlocked = (
        Accuracy(tuple(Record(str(n), "", "?", "yes", "yes" if mark == "+" else "no") for n, mark in enumerate(marks)))
        for marks in (was_right, right)
    )
    return replace(Calibration("mma", False, losses, locked, unlocked), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (result([0.5, 0.6, 0.4, 0.5], "++--", "++--"), "Unlocked untrained, it is worse on 4 samples"),
        (result([-0.5, -0.6, -0.4, -0.5], "++--", "++--"), "Unlocked untrained, it is better on 4 samples"),
        (result([0.5, -0.6, 0.1, 0.0], "++--", "+-+-"), "No difference seen on 4 samples"),
        (result([0.0] * 40, "-" * 40, "+" * 40), "Unlocked untrained, it is worse on 40 samples"),
        (result([0.5] * 40, "+" * 40, "-" * 40), "better in one way and worse in the other"),
        (result([-0.5, -0.6], "++", "++", was_unlocked=True), "No difference seen on 2 samples"),
        (result([-0.5, -0.51], "++", "++", was_unlocked=True), "Unlocked, as it was saved, it is better on 2 samples"),
        (result([0.5], "-", "+"), "One sample says nothing of others"),
    ],
)
def test_it_says_what_was_seen(found: Calibration, said: str):
    assert said in found.said


def test_what_has_no_bound_is_null():
    record = result([0.5], "-", "+").to_json()
    assert record["loss"]["difference"] == {"value": 0.5, "low": None, "high": None, "count": 1, "unit": "samples"}
    assert record["records"][0]["answers"] == {"locked": "yes", "unlocked": "no"}
    assert record["accuracy"]["overall"]["difference"]["value"] == -1


def test_a_loss_that_is_no_number_is_an_error(monkeypatch: pytest.MonkeyPatch):
    model, processor = llava()
    monkeypatch.setattr(
        nn.functional, "cross_entropy", lambda logits, targets, **_: torch.full(targets.shape, math.nan)
    )
    with pytest.raises(ValueError, match="sample '0': the loss on its reply is nan"):
        calibrate(model, processor, SAMPLES, max_new_tokens=1)
    assert not is_unlocked(model)


def test_a_sample_that_cannot_be_asked_is_named():
    model, processor = llava()
    asked = [{"type": "text", "text": "what is <image> here?"}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "yes"}]
    wrong = Sample.model_validate({"id": "odd", "messages": messages, "source": "mine.jsonl"})
    with pytest.raises(ValueError, match=r"^mine\.jsonl: sample 'odd': "):
        calibrate(model, processor, [*SAMPLES, wrong], max_new_tokens=1)
