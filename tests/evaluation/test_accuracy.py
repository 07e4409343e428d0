"""Scores, the subset they are taken on, and what `evaluate` leaves as it found it."""

import math
import weakref
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from mutua.composition.tiny import CHAT_TEMPLATE, tiny_config, train_tokenizer
from mutua.data.readers import Scenes
from mutua.data.sample import Sample
from mutua.evaluation.accuracy import Accuracy, Record, Score, evaluate, spread
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor

Pair = tuple[MutuaForConditionalGeneration, MutuaProcessor]


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = train_tokenizer([Scenes("train", 40)[i].question for i in range(40)])
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = tiny_config(tokenizer, vision={**sizes, "image_size": 16}, text=sizes)
    return MutuaForConditionalGeneration(config), MutuaProcessor.for_config(config, tokenizer, CHAT_TEMPLATE)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # None of n: z^2 / (n + z^2) above. 81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson(correct: int, total: int, low: float, high: float) -> None:
    assert Score(correct, total).interval == pytest.approx((low, high), abs=1e-4)


def test_an_interval_holds_its_accuracy() -> None:
    for score in (Score(correct, total) for total in range(1, 200) for correct in (0, total)):
        low, high = score.interval
        assert low <= score.accuracy <= high


def test_nothing_asked() -> None:
    assert Score(0, 0).interval == (0.0, 1.0)
    assert math.isnan(Score(0, 0).accuracy)


@pytest.mark.parametrize(
    ("answer", "is_correct"), [("Red", True), (" red\n", True), ("red.", False), ("", False), ("red red", False)]
)
def test_a_match_is_exact_but_for_case_and_space(answer: str, is_correct: bool) -> None:
    assert Record("1", "f", "?", "red", answer).is_correct is is_correct


def test_scores_by_family() -> None:
    records = [Record("1", "b", "?", "x", "x"), Record("2", "a", "?", "x", "y"), Record("3", "", "?", "x", "X")]
    accuracy = Accuracy(tuple(records))
    assert accuracy.overall == Score(2, 3)
    assert accuracy.families == {"b": Score(1, 1), "a": Score(0, 1), "other": Score(1, 1)}
    assert accuracy.summary()["families"]["b"]["accuracy"] == 1.0


def test_a_subset_is_spread_evenly_and_meets_every_family() -> None:
    chosen = spread(600, 120)
    assert chosen == sorted(set(chosen))
    assert [index // 5 for index in chosen] == list(range(120))  # one from each stretch
    counts = Counter(index % 5 for index in chosen)  # a source that deals five families in turn
    assert min(counts.values()) >= 22
    assert spread(5, None) == spread(5, 9) == list(range(5))
    assert len(set(spread(7, 6))) == 6


class Spoken(Sequence):
    """Samples whose expected answers are what the model says to them."""

    def __init__(self, samples: Sequence[Sample], answers: Sequence[str]) -> None:
        self.samples = [
            Sample.model_validate(
                {
                    **sample.model_dump(),
                    "messages": [*sample.messages[:-1], {"role": "assistant", "content": answer or "-"}],
                }
            )
            for sample, answer in zip(samples, answers, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.samples[index]


def test_batches_change_no_answer_and_records_keep_the_order(pair: Pair) -> None:
    samples = Scenes("test", 10)
    one, many = (evaluate(*pair, samples, batch_size=size) for size in (1, 4))
    assert one == many
    assert [record.id for record in one.records] == [sample.id for sample in samples]
    assert [record.expected for record in one.records] == [sample.answer for sample in samples]
    right = evaluate(*pair, Spoken(samples, [record.answer for record in one.records]), batch_size=4)
    assert right.overall.correct == sum(bool(record.answer.strip()) for record in one.records)


def test_state_is_left_as_it_was(pair: Pair) -> None:
    model, processor = pair
    side, before = processor.tokenizer.padding_side, torch.get_rng_state()
    for mode in (False, True):  # the last as it came
        model.train(mode)
        evaluate(*pair, Scenes("test", 4))
        assert model.training is mode
    assert processor.tokenizer.padding_side == side
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_limit_and_nothing(pair: Pair) -> None:
    reported: list[tuple[int, int]] = []
    result = evaluate(*pair, Scenes("test", 50), batch_size=4, limit=10, progress=lambda *done: reported.append(done))
    assert reported == [(4, 10), (8, 10), (10, 10)]
    assert result.overall.total == 10
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(*pair, [])


class Watched(Sequence):
    """Counts how often each sample is read, and how many are alive at once."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.reads: Counter[int] = Counter()
        self.alive: weakref.WeakSet[Held] = weakref.WeakSet()
        self.most = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.reads[index] += 1
        sample = Held(**{name: getattr(self.samples[index], name) for name in Sample.model_fields})
        self.alive.add(sample)
        self.most = max(self.most, len(self.alive))
        return sample


class Held(Sample):
    """A sample that can be watched going."""

    __hash__ = object.__hash__


def test_pictures_are_opened_as_it_goes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mutua.evaluation.accuracy._READ_AHEAD", 2)
    samples = Watched(Scenes("test", 40))
    result = evaluate(*pair, samples, batch_size=4)
    assert set(samples.reads.values()) == {1}
    assert samples.most <= 2 * 2 * 4  # what is read while the last ones are still held
    assert result == evaluate(*pair, Scenes("test", 40), batch_size=5)
