"""One step: gradients, frozen parts, decay groups, cached features, and losses that are none."""

import math
from pathlib import Path

import pytest
import torch
from host_reads import HostReads
from training_runs import do_step

from mutua.data.collate import IGNORE, encode, supervised_positions
from mutua.data.sample import Sample
from mutua.training import Recipe, TrainingError
from mutua.training.batches import StepBatch, batches, open_mixture
from mutua.training.build import build_model, freeze
from mutua.training.optimizer import build_optimizer
from mutua.training.precision import recompute_activations
from mutua.training.step import Stepper
from mutua.world import World


def chat(question: str, answer: str) -> Sample:
    content = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Sample.model_validate({"id": question, "messages": content})


def stepper_of(recipe: Recipe) -> tuple[Stepper, list[StepBatch]]:
    torch.manual_seed(0)
    mixture = open_mixture(recipe)
    model, processor = build_model(recipe.model, mixture, recipe.data.tokenizer_texts)
    freeze(model, recipe.train.freeze)
    optimizer = build_optimizer(model, recipe.train)
    return Stepper(model, optimizer, recipe.train, World()), list(batches(mixture, processor, recipe, 0))


def gradient(stepper: Stepper, batch: StepBatch) -> torch.Tensor:
    stepper.optimizer.zero_grad()
    stepper.backward(batch)
    return torch.cat([p.grad.flatten() for p in stepper.model.parameters() if p.grad is not None])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def test_labels_are_the_responses(tmp_path: Path, recipe_in) -> None:
    recipe = recipe_in(tmp_path)
    _, processor = build_model(recipe.model, open_mixture(recipe), 40)
    batch = encode([chat("is it red?", "yes"), chat("a somewhat longer question?", "no")], processor)
    said = [processor.tokenizer.decode(row[row != IGNORE]) for row in batch["labels"]]
    assert said == ["yes<|end|>", "no<|end|>"]
    assert (batch["attention_mask"][:, 0] == 1).all()


def test_micro_batches_add_up_to_the_batch(tmp_path: Path, recipe_in) -> None:
    """Uneven in length and in supervised tokens, split at an odd place."""
    recipe = recipe_in(tmp_path, "model.text.attention_dropout=0.0", "train.precision=fp32")
    stepper, _ = stepper_of(recipe)
    _, processor = build_model(recipe.model, open_mixture(recipe), 40)
    mixture = open_mixture(recipe)
    pictures = mixture.read(mixture.draws(0), ())
    texts = [chat("why?", "because it is so, and it has always been so, " * 4), chat("who? " * 30, "me")]
    samples = [texts[0], *pictures, texts[1]]

    def split(*sizes: int) -> StepBatch:
        parts, start = [], 0
        for size in sizes:
            part = encode(samples[start : start + size], processor)
            parts.append({**part, "supervised_positions": supervised_positions(part["labels"])})
            start += size
        supervised = sum(int((part["labels"] != IGNORE).sum()) for part in parts)
        return StepBatch(tuple(parts), tuple(sample.id for sample in samples), supervised)

    whole = gradient(stepper, split(6))
    assert relative(gradient(stepper, split(1, 4, 1)), whole) < 1e-6
    assert relative(gradient(stepper, split(2, 2, 2)), whole) < 1e-6
    assert stepper.backward(split(1, 5))[0].item() == pytest.approx(stepper.backward(split(6))[0].item(), rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_checkpointing_changes_no_gradient(precision: str, tmp_path: Path, recipe_in) -> None:
    stepper, feed = stepper_of(recipe_in(tmp_path, f"train.precision={precision}"))
    torch.manual_seed(1)
    plain = gradient(stepper, feed[0])
    recompute_activations(stepper.model)
    assert stepper.model.is_activation_checkpointing
    torch.manual_seed(1)  # dropout too must come out the same
    assert torch.equal(gradient(stepper, feed[0]), plain)


def test_bf16_is_close_and_leaves_weights_in_fp32(tmp_path: Path, recipe_in) -> None:
    exact, feed = stepper_of(recipe_in(tmp_path, "model.text.attention_dropout=0.0", "train.precision=fp32"))
    rough, _ = stepper_of(recipe_in(tmp_path, "model.text.attention_dropout=0.0", "train.precision=bf16"))
    a, b = exact.backward(feed[0])[0].item(), rough.backward(feed[0])[0].item()
    assert a != b
    assert a == pytest.approx(b, rel=1e-2)
    assert {parameter.dtype for parameter in rough.model.parameters()} == {torch.float32}


def test_frozen_parts_stay_bit_identical(tmp_path: Path, recipe_in) -> None:
    frozen = "train.freeze=[model.vision_tower.*, '*norm*']"
    stepper, feed = stepper_of(recipe_in(tmp_path, frozen))
    before = {name: parameter.detach().clone() for name, parameter in stepper.model.named_parameters()}
    for index in range(3):
        do_step(stepper, index, feed[index])
    for name, parameter in stepper.model.named_parameters():
        is_frozen = "vision_tower" in name or "norm" in name
        assert torch.equal(before[name], parameter) == is_frozen, name


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            "train.freeze=[vision_tower]",
            r"'vision_tower' matches no parameter; .* model\.connector, model\.language_model, model\.vision_tower ",
        ),
        ("train.freeze=['*']", "freeze every parameter"),
        ("train.cache_vision_mb=1", r"needs a frozen vision encoder, .* add model\.vision_tower\.\* to train\.freeze"),
    ],
)
def test_freezing_that_cannot_be_meant(tmp_path: Path, recipe_in, setting: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        stepper_of(recipe_in(tmp_path, setting))


@pytest.mark.parametrize("connector", ["mlp", "resampler"])
def test_cached_features_give_the_same_losses(tmp_path: Path, recipe_in, connector: str) -> None:
    fixed = ("train.freeze=['model.vision_tower.*']", f"model.connector={connector}", "train.steps=6")
    plain, feed = stepper_of(recipe_in(tmp_path, *fixed))
    cached, _ = stepper_of(recipe_in(tmp_path, *fixed, "train.cache_vision_mb=1"))
    encoded = []
    cached.model.model.vision_tower.register_forward_hook(lambda *_: encoded.append(1))
    losses = []
    for stepper in (plain, cached):
        torch.manual_seed(2)
        # Every batch twice: the second time all of its pictures come from the cache.
        losses.append([do_step(stepper, index, feed[index // 2]).loss for index in range(6)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(encoded) == 6  # the two micro-batches of three batches, each of them once


def test_a_loss_that_is_not_finite_stops_before_it_harms(tmp_path: Path, recipe_in) -> None:
    stepper, feed = stepper_of(recipe_in(tmp_path))
    with torch.no_grad():
        stepper.model.model.connector.up.weight[0, 0] = math.inf
    before = [parameter.detach().clone() for parameter in stepper.model.parameters()]
    with pytest.raises(TrainingError, match=r"step 5: loss nan.* train\.learning_rate"):
        do_step(stepper, 4, feed[0])
    assert all(torch.equal(a, b) for a, b in zip(before, stepper.model.parameters(), strict=True))


def test_a_step_itself_waits_for_no_device_before_its_end(tmp_path: Path, recipe_in) -> None:
    stepper, feed = stepper_of(recipe_in(tmp_path, "train.precision=fp32"))
    do_step(stepper, 0, feed[0])
    with HostReads() as reads:
        do_step(stepper, 1, feed[1])
    assert not {"step.py", "precision.py", "head_loss.py", "optimizer.py"} & set(reads.files)
    with HostReads() as reads:
        assert torch.ones(3)[torch.ones(3) > 0].sum().item() == 3
    assert len(reads.files) == 2
