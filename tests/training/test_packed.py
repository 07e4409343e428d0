"""Packed training: the loss and the gradient of every step are those of unpacked training, on fewer places."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from training_runs import do_step, expect_equal, expect_resumed, lines

from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.training import Recipe, train
from mutua.training.batches import StepBatch, batches, open_mixture
from mutua.training.build import build_model
from mutua.training.optimizer import build_optimizer
from mutua.training.step import Stepper
from mutua.world import World

PACKING = "data.packing={tokens: 150, max_images: 6}"
COMMON = ("model.text.attention_dropout=0.0", "train.precision=fp32", "train.batch_size=12")


@pytest.fixture
def built(tmp_path, recipe_in) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    recipe = recipe_in(tmp_path, *COMMON)
    torch.manual_seed(0)
    return build_model(recipe.model, open_mixture(recipe), 40)


def first_batch(recipe: Recipe, processor: MutuaProcessor) -> StepBatch:
    return next(batches(open_mixture(recipe), processor, recipe, 0))


@pytest.mark.parametrize("backend", ["mutua_sdpa", "mutua_split"])
@pytest.mark.parametrize("policy", ["mma", "causal"])
@pytest.mark.parametrize("micro", ["null", "1", "2"])
def test_loss_and_gradient_are_those_of_unpacked_training(built, recipe_in, tmp_path, backend, policy, micro):
    model, processor = built
    model.config.attention_policy = policy
    model.set_attn_implementation(backend)
    found = {}
    kinds = {"unpacked": ("train.micro_batch_size=null",), "packed": (PACKING, f"train.micro_batch_size={micro}")}
    for name, overrides in kinds.items():
        recipe = recipe_in(tmp_path, *COMMON, *overrides)
        stepper = Stepper(model, build_optimizer(model, recipe.train), recipe.train, World())
        batch = first_batch(recipe, processor)
        model.zero_grad()
        loss, correct = stepper.backward(batch)
        gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        found[name] = batch, float(loss), int(correct), gradients
    (padded, loss, correct, gradients), (packed, *theirs) = found["unpacked"], found["packed"]
    assert theirs[0] == pytest.approx(loss, rel=1e-5)
    assert theirs[1] == correct
    for key, gradient in gradients.items():
        torch.testing.assert_close(theirs[2][key], gradient, atol=2e-6, rtol=1e-3, msg=key)
    assert (packed.sample_ids, packed.supervised_tokens) == (padded.sample_ids, padded.supervised_tokens)
    assert packed.utilisation > 0.9


def test_a_step_is_the_same_whatever_came_before(built, recipe_in, tmp_path):
    _, processor = built
    recipe = recipe_in(tmp_path, *COMMON, PACKING, "train.micro_batch_size=2")
    mixture = open_mixture(recipe)
    feed = batches(mixture, processor, recipe, 0)
    third = [next(feed) for _ in range(3)][2]
    again = next(batches(mixture, processor, recipe, 2))
    assert third.sample_ids == again.sample_ids
    for one, two in zip(third.micro_batches, again.micro_batches, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_document_sees_nothing_of_its_neighbours(built, recipe_in, tmp_path):
    """Every token and picture of one document is replaced: the loss of the others stays as it was."""
    model, processor = built
    recipe = recipe_in(tmp_path, *COMMON, PACKING, "train.micro_batch_size=null")
    (batch,) = first_batch(recipe, processor).micro_batches
    model.config.attention_policy = "mma"
    model.set_attn_implementation("mutua_sdpa")
    model.eval()
    mine = (batch["token_type_ids"] >> 28) == 1
    mine &= batch["attention_mask"].bool()
    others = batch["attention_mask"].bool() & ~mine
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")}
    with torch.no_grad():
        before = model(**inputs).logits
        is_text = mine & (inputs["input_ids"] != model.config.image_token_id)
        changed = {**inputs, "input_ids": torch.where(is_text, inputs["input_ids"] + 1, inputs["input_ids"])}
        after = model(**changed).logits
    assert torch.equal(before[others], after[others]) or (before - after)[others].abs().max() < 1e-5
    assert (before - after)[mine].abs().max() > 1e-3


def test_what_fits_into_no_row_is_left_out_and_told(built, recipe_in, tmp_path):
    _, processor = built
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    pictures = [{"type": "image", "image": "red.png"}] * 2
    chats = {
        "two": [*pictures, {"type": "text", "text": "are they one colour?"}],
        "long": [{"type": "text", "text": "is it red? " * 30}],
        "one": [*pictures[:1], {"type": "text", "text": "is it red?"}],
    }
    messages = {
        name: [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]
        for name, content in chats.items()
    }
    written = [json.dumps({"id": name, "messages": chat}) for name, chat in messages.items()]
    (tmp_path / "chats.jsonl").write_text("\n".join(written))
    source = f"data.train=[{{source: {{type: jsonl, path: {tmp_path / 'chats.jsonl'}}}}}]"
    recipe = recipe_in(tmp_path, *COMMON[:2], "train.batch_size=3", source, "data.packing={tokens: 60, max_images: 1}")
    batch = first_batch(recipe, processor)
    assert batch.sample_ids == ("one",)
    reasons = {skip.id: (skip.reason, skip.too_long) for skip in batch.skips}
    assert reasons["two"] == ("2 images, and data.packing.max_images allows 1 in a row", False)
    assert reasons["long"][0].endswith("tokens, and data.packing.tokens allows 60")
    assert reasons["long"][1]


def test_a_packed_run_goes_on_bit_for_bit(recipe_in, tmp_path: Path):
    overrides = (*COMMON, PACKING, "train.micro_batch_size=2", "train.steps=6", "train.checkpoint_every=3")
    whole = recipe_in(tmp_path, *overrides, f"output={tmp_path / 'whole'}")
    train(whole)
    first = recipe_in(tmp_path, *overrides, f"output={tmp_path / 'parts'}", "train.steps=6")
    # A run of three steps that is raised to six has another schedule, so the stop comes from within.
    original, steps = Stepper.update, []

    def update(self, index, *rest):
        if index == 4 and not steps:
            steps.append(index)
            raise OSError("the power went")
        return original(self, index, *rest)

    Stepper.update = update
    try:
        with pytest.raises(OSError, match="power"):
            train(first)
    finally:
        Stepper.update = original
    console = Console(file=StringIO(), width=300)
    train(first, console)
    expect_resumed(console)
    expect_equal(tmp_path / "parts", tmp_path / "whole")
    assert all(line["utilisation"] > 0.8 for line in lines(tmp_path / "whole"))


def test_packed_steps_learn(built, recipe_in, tmp_path):
    model, processor = built
    recipe = recipe_in(tmp_path, *COMMON, PACKING, "train.micro_batch_size=null")
    stepper = Stepper(model, build_optimizer(model, recipe.train), recipe.train, World())
    batch = first_batch(recipe, processor)
    losses = [do_step(stepper, step, batch).loss for step in range(8)]
    assert losses[-1] < losses[0]
