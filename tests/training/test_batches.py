"""Batches: pinned, shared among ranks, no heavier than needed, and without the samples that cannot be used."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory
from training_runs import do_step

from mutua.data.check import SKIPPED, check_source
from mutua.data.readers import JsonLines
from mutua.data.sample import Sample
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.training import Recipe
from mutua.training.batch_shape import look_at_sources
from mutua.training.batches import StepBatch, batches, open_mixture
from mutua.training.build import build_model
from mutua.training.optimizer import build_optimizer
from mutua.training.samples import SampleCounts, sample_limits
from mutua.training.step import Stepper
from mutua.world import World

Line = dict[str, Any]


def turns(name: str, *texts: str, image: str | None = None) -> Line:
    """A line of a JSON Lines file: user and assistant in turn."""
    messages: list[Any] = [
        {"role": ("user", "assistant")[n % 2], "content": [{"type": "text", "text": text}]}
        for n, text in enumerate(texts)
    ]
    if image is not None:
        messages[0]["content"].insert(0, {"type": "image", "image": image})
    return {"id": name, "messages": messages}


@pytest.fixture
def recipe_of(tmp_path: Path, recipe_in: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """A recipe on the lines of a file, whose steps take all of them; dicts or, for lines that are broken, texts."""

    def make(lines: list[Line | str], *overrides: str) -> Recipe:
        Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
        Image.effect_noise((16, 16), 50).convert("RGB").save(tmp_path / "noise.png")
        written = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / "lines.jsonl").write_text("\n".join(written))
        source = f"{{type: jsonl, path: {tmp_path / 'lines.jsonl'}}}"
        size = (f"train.batch_size={len(lines)}", "train.micro_batch_size=null", "train.precision=fp32")
        return recipe_in(tmp_path, f"data.train=[{{source: {source}}}]", *size, *overrides)

    return make


@pytest.fixture(scope="module")
def model(tmp_path_factory, recipe_in) -> tuple[MutuaForConditionalGeneration, MutuaProcessor]:
    recipe = recipe_in(tmp_path_factory.mktemp("model"), "model.text.attention_dropout=0.0")
    torch.manual_seed(0)
    return build_model(recipe.model, open_mixture(recipe), 40)


def first_batch(recipe: Recipe, processor: MutuaProcessor, **options: Any) -> StepBatch:
    return next(batches(open_mixture(recipe), processor, recipe, 0, **options))


MIXED = [
    turns("a", "what?", "red", image="red.png"),
    turns("b", "who is it, and why?", "a much longer reply than that of the others"),
    turns("c", "and this?", "noise", "again?", "noise, as I said", image="noise.png"),
    turns("d", "hm?", "no"),
    turns("e", "one more?", "yes", image="noise.png"),
]


# What is in a batch


def test_a_batch_is_pinned_by_the_loader(monkeypatch: pytest.MonkeyPatch, recipe_of, model) -> None:
    """No CUDA here: that every tensor is asked to pin itself is what can be seen."""
    batch = first_batch(recipe_of(MIXED), model[1])
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: (pinned.append(id(self)), self.clone())[1])
    copy = pin_memory(batch)
    tensors = {id(tensor) for micro_batch in batch.micro_batches for tensor in micro_batch.values()}
    assert isinstance(copy, StepBatch)
    assert set(pinned) == tensors
    assert not tensors & {id(tensor) for micro_batch in copy.micro_batches for tensor in micro_batch.values()}
    assert (copy.sample_ids, copy.counts) == (batch.sample_ids, batch.counts)


def test_a_batch_holds_what_the_model_takes_and_no_more(recipe_of, model) -> None:
    (micro_batch,) = first_batch(recipe_of(MIXED), model[1]).micro_batches
    assert set(micro_batch) <= set(inspect.signature(MutuaForConditionalGeneration.forward).parameters)
    assert micro_batch["pixel_values"].dtype == torch.float32


def test_pixels_in_bf16_change_no_loss_where_the_run_computes_in_it(recipe_of, model) -> None:
    recipe = recipe_of(MIXED, "train.precision=bf16")
    stepper = stepper_of(recipe, model[0])
    wide, narrow = (first_batch(recipe, model[1], pixels=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert narrow.micro_batches[0]["pixel_values"].dtype == torch.bfloat16
    assert torch.equal(stepper.backward(wide)[0], stepper.backward(narrow)[0])


@pytest.mark.parametrize("policy", ["mma", "causal"])
def test_the_order_of_images_and_text(policy: str, recipe_of, model) -> None:
    lines = [turns(f"s{n}", "what?" + "!" * n, "red", image="red.png") for n in range(8)]

    def image_first(step: int, order: str) -> dict[str, bool]:
        recipe = recipe_of(lines, f"data.order={order}", f"model.attention_policy={policy}")
        batch = next(batches(open_mixture(recipe), model[1], recipe, step))
        assert torch.isfinite(stepper_of(recipe, model[0]).backward(batch)[0])
        ids = batch.micro_batches[0]["input_ids"]
        return dict(zip(batch.sample_ids, (ids[:, 1] == model[1].image_token_id).tolist(), strict=True))

    assert set(image_first(0, "null").values()) == set(image_first(0, "image-first").values()) == {True}
    assert set(image_first(0, "text-first").values()) == {False}
    epochs = [image_first(step, "both") for step in range(3)]  # a step is an epoch here
    assert set(epochs[0].values()) == {True, False}
    assert epochs[0] == epochs[2] == {name: not is_first for name, is_first in epochs[1].items()}


def test_pictures_are_mirrored_by_recipe(tmp_path: Path, recipe_of, model) -> None:
    lines = [turns(f"s{n}", "what?" + "!" * n, "red", image="half.png") for n in range(8)]
    lines.append(turns("sided", "what is left?", "red", image="half.png"))
    picture = Image.new("RGB", (16, 16), "blue")
    picture.paste("red", (0, 0, 8, 16))
    picture.save(tmp_path / "half.png")

    def mirrored(step: int, flip: str) -> dict[str, bool]:
        recipe = recipe_of(lines, f"data.train.0.flip={flip}")
        batch = next(batches(open_mixture(recipe), model[1], recipe, step))
        red_I3 = batch.micro_batches[0]["pixel_values"][:, 0, :, [0, -1]].mean(1)
        return dict(zip(batch.sample_ids, (red_I3[:, 0] < red_I3[:, 1]).tolist(), strict=True))

    assert set(mirrored(0, "0").values()) == {False}
    whole = mirrored(0, "1.0")
    assert not whole.pop("sided")
    assert set(whole.values()) == {True}
    epochs = [mirrored(step, "0.5") for step in range(2)]  # a step is an epoch here
    assert all(set(epoch.values()) == {True, False} for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert mirrored(1, "0.5") == epochs[1]


# Shares of a batch


class Together(World):
    """All processes of a run, in this one: what they would agree on is known from their batches."""

    def __init__(self, size: int, drawn: list[StepBatch]) -> None:
        super().__init__(size=size)
        self.drawn = drawn

    def sums(self, numbers: list[int]) -> list[int]:
        counted = [
            [one.supervised_tokens, one.tokens, one.places, *(n for c in one.counts for n in vars(c).values())]
            for one in self.drawn
        ]
        assert list(numbers) in counted
        return [sum(column) for column in zip(*counted, strict=True)]

    def largest(self, number: int) -> int:
        return max(len(one.micro_batches) for one in self.drawn)

    def lists(self, mine: list[Any]) -> list[Any]:
        return [skip for one in self.drawn for skip in one.skips]


def stepper_of(recipe: Recipe, model: MutuaForConditionalGeneration) -> Stepper:
    model = copy.deepcopy(model)  # it gathers gradients, and is then in training
    return Stepper(model, build_optimizer(model, recipe.train), recipe.train, World())


@pytest.mark.parametrize("micro_batch_size", ["null", "3"])
@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_the_shares_of_all_processes_are_the_batch(ranks: int, micro_batch_size: str, recipe_of, model) -> None:
    recipe = recipe_of(MIXED, f"train.micro_batch_size={micro_batch_size}")
    batch = first_batch(recipe, model[1])
    drawn = [next(batches(open_mixture(recipe), model[1], recipe, 0, rank=r, ranks=ranks)) for r in range(ranks)]
    shares = [share.joined(Together(ranks, drawn), text_id=7) for share in drawn]
    # They wait for each other in every forward pass.
    assert len({len(share.micro_batches) for share in shares}) == 1
    assert {share.supervised_tokens for share in shares} == {batch.supervised_tokens}
    assert {share.counts for share in shares} == {batch.counts}
    assert {share.samples for share in shares} == {len(batch.sample_ids)}
    assert {share.tokens for share in shares} == {batch.tokens}
    assert len({share.utilisation for share in shares}) == 1

    def supervised(one: StepBatch) -> list[tuple[tuple[int, ...], float]]:
        """Rows with something to predict, and the pixels that go with them."""
        rows = []
        for micro_batch in one.micro_batches:
            images = list(micro_batch.get("pixel_values", []))
            columns = (micro_batch[name] for name in ("input_ids", "labels", "attention_mask"))
            for ids, labels, mask in zip(*columns, strict=True):
                has_image = bool((ids == model[1].image_token_id).any())
                pixels = float(images.pop(0).double().std()) if has_image else 0.0
                if (labels != -100).any():
                    rows.append((tuple(ids[mask.bool()].tolist()), pixels))
            assert not images
        return sorted(rows)

    assert sorted(row for share in shares for row in supervised(share)) == supervised(batch)
    stepper = stepper_of(recipe, model[0])

    def gradient(parts: list[StepBatch]) -> tuple[torch.Tensor, float, int]:
        stepper.optimizer.zero_grad()
        told = [stepper.backward(part) for part in parts]
        gradients = torch.cat([p.grad.flatten() for p in stepper.model.parameters() if p.grad is not None])
        return gradients, sum(loss.item() for loss, _ in told), sum(int(correct) for _, correct in told)

    whole, summed = gradient([batch]), gradient(shares)
    assert ((summed[0] - whole[0]).norm() / whole[0].norm()).item() < 1e-6
    assert summed[1:] == (pytest.approx(whole[1], rel=1e-6), whole[2])


def test_no_process_meets_one_source_only(recipe_of, model) -> None:
    """Two sources in turn, two processes: each would be fed by one of them."""
    lines = [turns(f"s{nth}", "what?" + "!" * nth, "red") for nth in range(16)]
    one = recipe_of(lines, "train.batch_size=8")
    source = one.data.train[0]
    recipe = one.model_copy(update={"data": one.data.model_copy(update={"train": (source, source)})})
    drawn = [next(batches(open_mixture(recipe), model[1], recipe, 0, rank=rank, ranks=2)) for rank in range(2)]
    for share in drawn:
        assert [counts.drawn > 0 for counts in share.counts] == [True, True]
    assert sum(counts.drawn for share in drawn for counts in share.counts) == 8


# Samples that cannot be used

BAD: list[tuple[Line | str, str, str]] = [
    (turns("control", "say <|end|> now", "red"), "control", "holds the control token '<|end|>'"),
    (turns("missing", "what?", "red", image="nowhere.png"), "missing", "file not found: "),
    (turns("asks", "what?"), "asks", "no token is supervised, for it holds no reply"),
    (turns("order", "what?", "red", "who?", ""), "sample 1", "empty text"),
    ('{"id": "torn", "mess', "sample 1", "not valid JSON"),
]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("line", "name", "reason"), BAD)
def test_a_bad_sample_is_left_out(line: Line | str, name: str, reason: str, workers: int, recipe_of, model) -> None:
    recipe = recipe_of([MIXED[0], line, *MIXED[1:]], f"train.workers={workers}")
    batch = first_batch(recipe, model[1])
    assert sorted(batch.sample_ids) == ["a", "b", "c", "d", "e"]
    (skip,) = batch.skips
    assert (skip.source, skip.id, skip.too_long) == (0, name, False)
    assert reason in skip.reason
    assert batch.counts == (SampleCounts(drawn=6, bad=1),)
    rows = batch.micro_batches[0]["input_ids"].shape[0]
    assert (rows, len(batch.micro_batches[0]["pixel_values"])) == (5, 3)


def test_bad_samples_of_a_source_that_is_read_in_bulk(monkeypatch: pytest.MonkeyPatch, recipe_of, model) -> None:
    recipe = recipe_of([*MIXED, *(line for line, *_ in BAD)], "train.micro_batch_size=3")
    alone = first_batch(recipe, model[1])

    def in_bulk(source: JsonLines, indices: list[int]) -> list[Sample]:
        return [source[index] for index in indices]

    monkeypatch.setattr(JsonLines, "__getitems__", in_bulk, raising=False)
    at_once = first_batch(recipe, model[1])
    assert (at_once.sample_ids, at_once.skips, at_once.counts) == (alone.sample_ids, alone.skips, alone.counts)
    assert len(alone.skips) == len(BAD)
    for one, other in zip(at_once.micro_batches, alone.micro_batches, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_of_bad_samples_alone_is_an_empty_batch(recipe_of, model) -> None:
    recipe = recipe_of([line for line, *_ in BAD])
    batch = first_batch(recipe, model[1])
    assert (batch.micro_batches, batch.sample_ids, batch.supervised_tokens) == ((), (), 0)
    assert batch.counts == (SampleCounts(drawn=5, bad=5),)
    assert do_step(stepper_of(recipe, model[0]), 0, batch) is None


def test_any_other_error_ends_the_run(monkeypatch: pytest.MonkeyPatch, recipe_of, model) -> None:
    def encode(*_: object) -> None:
        raise TypeError("a mistake in the program")

    monkeypatch.setattr("mutua.training.batches.encode", encode)
    with pytest.raises(TypeError, match="a mistake in the program"):
        first_batch(recipe_of(MIXED), model[1])


# Samples that are too long

LONG = turns("long", "first?", "one", "second?", "two " * 10, "third?", "three " * 30)


def test_a_long_sample_is_dropped(recipe_of, model) -> None:
    batch = first_batch(recipe_of([MIXED[3], LONG]), model[1], max_tokens=40)
    assert batch.sample_ids == ("d",)
    assert batch.counts == (SampleCounts(drawn=2, too_long=1),)
    assert batch.skips[0].id == "long"
    assert batch.skips[0].reason.endswith("tokens, and the language model allows 40")


@pytest.mark.parametrize(
    ("recipe", "positions", "tokens", "key"),
    [
        ((), None, None, "data.max_tokens"),
        (("data.max_tokens=30",), 40, 30, "data.max_tokens"),
        (("data.max_tokens=50",), 40, 40, "the language model"),
        (("data.max_tokens=50", "data.packing={tokens: 60}"), 40, 40, "the language model"),
        (("data.max_tokens=50", "data.packing={tokens: 30}"), 40, 30, "data.packing.tokens"),
        (("data.max_tokens=50",), None, 50, "data.max_tokens"),
    ],
)
def test_the_tightest_limit_counts(recipe_of, recipe, positions, tokens, key) -> None:
    limits = sample_limits(recipe_of(MIXED, *recipe).data, positions)
    assert (limits.tokens, limits.key) == (tokens, key)


def test_a_long_sample_is_cut_behind_the_last_whole_turn(recipe_of, model) -> None:
    """At every length that can be asked for."""
    recipe = recipe_of([LONG], "data.too_long=cut")
    whole = first_batch(recipe, model[1]).micro_batches[0]
    ids = whole["input_ids"][0].tolist()
    # Where replies end: one past each end mark of the assistant.
    is_reply = [label != -100 for label in whole["labels"][0].tolist()]
    ends = [n + 1 for n in range(len(ids)) if is_reply[n] and (n + 1 == len(ids) or not is_reply[n + 1])]
    assert len(ends) == 3
    for cap in range(1, len(ids) + 1):
        batch = first_batch(recipe, model[1], max_tokens=cap)
        fitting = [end for end in ends if end <= cap]
        if not fitting:
            assert batch.counts == (SampleCounts(drawn=1, too_long=1),)
            continue
        assert batch.micro_batches[0]["input_ids"][0].tolist() == ids[: fitting[-1]]
        assert batch.counts == (SampleCounts(drawn=1, cut=int(fitting[-1] < len(ids))),)


def test_pictures_of_turns_that_are_cut_go_with_them(recipe_of, model) -> None:
    line = turns("x", "first?", "one", "second " * 20, "two", image="red.png")
    line["messages"][2]["content"].insert(0, {"type": "image", "image": "noise.png"})
    recipe = recipe_of([line, MIXED[3]], "data.too_long=cut")
    batch = first_batch(recipe, model[1], max_tokens=30)
    assert batch.counts == (SampleCounts(drawn=2, cut=1),)
    assert len(batch.micro_batches[0]["pixel_values"]) == 1


def test_pictures_are_counted_in_what_a_cut_leaves(recipe_of, model) -> None:
    """Too many of them for a packed row are skipped, not met when rows are shared out; those cut off do not count."""
    first, later = (turns(name, "look", "one", "second " * 40, "two", image="red.png") for name in ("first", "later"))
    first["messages"][0]["content"].insert(0, {"type": "image", "image": "noise.png"})
    later["messages"][2]["content"].insert(0, {"type": "image", "image": "noise.png"})
    recipe = recipe_of([first, later], "data.too_long=cut", "data.packing={tokens: 60, max_images: 1}")
    batch = first_batch(recipe, model[1])
    assert batch.sample_ids == ("later",)
    assert batch.counts == (SampleCounts(drawn=2, bad=1, cut=1),)
    assert batch.skips[0].reason == "2 images, and data.packing.max_images allows 1 in a row"


@pytest.mark.parametrize(("too_long", "used"), [("drop", ["fits"]), ("cut", ["cut", "fits", "many before"])])
def test_a_run_a_plan_and_a_check_agree_on_what_fits(too_long: str, used: list[str], recipe_of, model) -> None:
    lines = [
        turns("fits", "look", "one", image="red.png"),
        turns("cut", "look", "one", "second " * 40, "two", image="red.png"),
        turns("not to be cut", "look " * 60, "one"),
        turns("many before", "look", "one", "second " * 40, "two", image="red.png"),
        turns("many after", "look", "one", "second " * 40, "two", image="red.png"),
        turns("many", "look", "one", image="red.png"),
        turns("unanswered", "look", image="red.png"),
    ]
    for name, message in (("many before", 2), ("many after", 0), ("many", 0)):
        line = next(line for line in lines if line["id"] == name)
        line["messages"][message]["content"].insert(0, {"type": "image", "image": "noise.png"})
    recipe = recipe_of(lines, f"data.too_long={too_long}", "data.packing={tokens: 60, max_images: 1}")

    batch = first_batch(recipe, model[1])
    assert sorted(batch.sample_ids) == used

    (look,) = look_at_sources(recipe, model[0].config, model[1], None, None)
    assert len(look.shapes) == len(used)
    assert {shape.images for shape in look.shapes} == {1}
    assert sum(shape.tokens for shape in look.shapes) == batch.tokens
    assert sum(shape.supervised for shape in look.shapes) == batch.supervised_tokens

    limits = sample_limits(recipe.data, None)
    (source,) = open_mixture(recipe).sources
    report = check_source(source, "lines", processor=model[1], limits=limits)
    found = {
        lines[int(one.place.rsplit(":", 1)[1]) - 1]["id"]: kind == "long"
        for kind in SKIPPED
        for one in report.findings.get(kind, ())
    }
    assert found == {skip.id: skip.too_long for skip in batch.skips}
