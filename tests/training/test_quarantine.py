"""Runs on data that are not all good: what is skipped, what is written down, and when a run stops."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from training_runs import at_step, expect_equal, lines

from mutua.training import Recipe, TrainingError, train
from mutua.training.samples import SampleCounts

GOOD = 60


def write(path: Path, bad: int) -> Path:
    """`bad` samples that cannot be used, evenly among `GOOD` good ones."""
    with path.open("w") as file:
        for n in range(GOOD):
            for name, text in ((f"good-{n}", f"is it {n}?"), (f"bad-{n}", "say <|end|> now")):
                if name.startswith("good") or n * bad // GOOD < (n + 1) * bad // GOOD:
                    chat = [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
                    file.write(json.dumps({"id": name, "messages": chat}) + "\n")
    return path


@pytest.fixture
def recipe_on(recipe_in: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """Half of the samples from a file in which `bad` are bad."""

    def make(folder: Path, bad: int, *overrides: str) -> Recipe:
        folder.mkdir(exist_ok=True)
        path = write(folder.parent / f"{bad}.jsonl", bad)
        scenes, file = "{type: scenes, split: train, size: 50}", f"{{type: jsonl, path: {path}}}"
        sources = f"data.train=[{{source: {scenes}}}, {{source: {file}}}]"
        return recipe_in(folder, sources, "evaluate.sources={}", *overrides)

    return make


def quarantine(run: Path) -> list[dict[str, Any]]:
    return lines(run, "quarantine.jsonl")


def test_bad_samples_are_skipped_counted_and_written_down(tmp_path: Path, recipe_on) -> None:
    train(recipe_on(tmp_path / "a", bad=20), Console(quiet=True))
    run = tmp_path / "a" / "run"
    skipped = quarantine(run)
    assert skipped
    assert {line["source"] for line in skipped} == {f"data.train.1 (jsonl {tmp_path / '20.jsonl'})"}
    assert all(line["id"].startswith("bad-") and "control token" in line["reason"] for line in skipped)
    assert [line["step"] for line in skipped] == sorted(line["step"] for line in skipped)
    for line in lines(run):
        assert line["samples_bad"] == sum(one["step"] <= line["step"] for one in skipped)
    record = json.loads((run / "model" / "run.json").read_text())
    assert record["samples"] == 36 - len(skipped)
    assert [source["drawn"] for source in record["sources"]] == [18, 18]
    assert [source["bad"] for source in record["sources"]] == [0, len(skipped)]
    assert [source["samples"] for source in record["sources"]] == [50, GOOD + 20]


def test_a_resumed_run_skips_the_same_and_writes_it_once(tmp_path: Path, recipe_on, monkeypatch) -> None:
    train(recipe_on(tmp_path / "a", 20), Console(quiet=True))
    at_step(monkeypatch, 5, lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert train(recipe_on(tmp_path / "b", 20), Console(quiet=True)).interrupted
    with (tmp_path / "b" / "run" / "quarantine.jsonl").open("a") as file:
        file.write('{"step": 7, "source": "of steps that a killed process did and did not save"}\n')
    train(recipe_on(tmp_path / "b", 20, "train.workers=1"), Console(quiet=True))
    expect_equal(tmp_path / "b" / "run", tmp_path / "a" / "run")
    assert quarantine(tmp_path / "b" / "run") == quarantine(tmp_path / "a" / "run")


def test_above_the_share_a_run_stops_with_a_checkpoint_and_goes_on_when_told_to(tmp_path: Path, recipe_on) -> None:
    longer = ("train.steps=30", "train.checkpoint_every=30")
    with pytest.raises(TrainingError, match=r"step \d+: 11 of the \d+ samples drawn from data\.train\.1 \(jsonl") as e:
        train(recipe_on(tmp_path / "a", 30, *longer), Console(quiet=True))
    for part in ("data.max_bad_share is 0.01", "bad-", "control token", "quarantine.jsonl", "raise data.max_bad_share"):
        assert part in str(e.value)
    step = int(str(e.value).partition(":")[0].removeprefix("step "))
    run = tmp_path / "a" / "run"
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{step - 1:06d}"]
    assert len(quarantine(run)) == 11
    train(recipe_on(tmp_path / "a", 30, *longer, "data.max_bad_share=0.5"), Console(quiet=True))
    train(recipe_on(tmp_path / "b", 30, *longer, "data.max_bad_share=0.5"), Console(quiet=True))
    expect_equal(run, tmp_path / "b" / "run")
    assert quarantine(run) == quarantine(tmp_path / "b" / "run")


@pytest.mark.parametrize("share", ["0.01", "1.0"])
def test_a_source_of_bad_samples_alone_stops_early(tmp_path: Path, recipe_in, share: str) -> None:
    """Whatever the share."""
    path = tmp_path / "bad.jsonl"
    path.write_text(
        "".join(f'{{"id": "q{n}", "messages": [{{"role": "user", "content": "why?"}}]}}\n' for n in range(90))
    )
    source = f"data.train=[{{source: {{type: jsonl, path: {path}}}}}]"
    with pytest.raises(TrainingError, match=r"step 3: 12 of the 12 samples .* q\d+: no token is supervised"):
        train(recipe_in(tmp_path, source, f"data.max_bad_share={share}"), Console(quiet=True))


def test_a_length_that_nothing_fits_stops_early(tmp_path: Path, recipe_in) -> None:
    with pytest.raises(
        TrainingError,
        match=r"step 4: all 12 samples .* too long, .* and data\.max_tokens allows 5.* Allow more in the recipe",
    ):
        train(recipe_in(tmp_path, "data.max_tokens=5"), Console(quiet=True))


def test_without_a_cap_it_is_what_the_language_model_has_positions_for(tmp_path: Path, recipe_on) -> None:
    """Some questions on scenes are longer than 24 tokens, the image's four included, and some are not."""
    train(recipe_on(tmp_path / "a", 0, "model.text.max_position_embeddings=24"), Console(quiet=True))
    skipped = quarantine(tmp_path / "a" / "run")
    assert 0 < len(skipped) < 36
    assert all("the language model allows 24" in line["reason"] for line in skipped)
    assert lines(tmp_path / "a" / "run")[-1]["samples_too_long"] == len(skipped)


def test_a_share_of_zero_allows_none(tmp_path: Path, recipe_on) -> None:
    with pytest.raises(TrainingError, match="1 of the "):
        train(recipe_on(tmp_path / "a", 20, "data.max_bad_share=0.0"), Console(quiet=True))


def test_a_preset_on_unreadable_lines_says_what_is_wrong(tmp_path: Path, recipe_in) -> None:
    (tmp_path / "bad.jsonl").write_text("no json\n" * 90)
    source = f"data.train=[{{source: {{type: jsonl, path: {tmp_path / 'bad.jsonl'}}}}}]"
    with pytest.raises(ValueError, match=r"bad\.jsonl:\d+: not valid JSON"):
        train(recipe_in(tmp_path, source), Console(quiet=True))


def test_a_step_without_a_usable_sample_counts_and_changes_nothing(tmp_path: Path, recipe_on, monkeypatch) -> None:
    """One sample a step, every second one from the file in which one of three is bad."""
    small = ("train.batch_size=1", "train.micro_batch_size=1", "train.log_every=1")
    result = train(recipe_on(tmp_path / "a", 30, *small), Console(quiet=True))
    log = lines(tmp_path / "a" / "run")
    empty = {line["step"] for line in quarantine(tmp_path / "a" / "run")}
    assert empty
    assert {line["step"] for line in log if line["loss"] is None} == empty
    assert (result.step, [line["step"] for line in log]) == (9, list(range(1, 10)))
    at_step(monkeypatch, max(empty) - 1, lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert train(recipe_on(tmp_path / "b", 30, *small), Console(quiet=True)).step == max(empty)
    train(recipe_on(tmp_path / "b", 30, *small), Console(quiet=True))
    expect_equal(tmp_path / "b" / "run", tmp_path / "a" / "run")


@pytest.mark.parametrize(
    ("counts", "share", "too_many"),
    [
        (SampleCounts(drawn=10, bad=10), 0.01, False),
        (SampleCounts(drawn=11, bad=11), 1.0, True),
        (SampleCounts(drawn=12, bad=11), 0.01, True),
        (SampleCounts(drawn=1100, bad=11), 0.01, False),
        (SampleCounts(drawn=1099, bad=11), 0.01, True),
        (SampleCounts(drawn=100, too_long=99), 0.01, False),
        (SampleCounts(drawn=100, too_long=99, bad=1), 0.01, True),
        (SampleCounts(drawn=100, bad=1), 0.0, True),
        (SampleCounts(drawn=100, cut=100), 0.0, False),
    ],
)
def test_how_many_are_too_many(counts: SampleCounts, share: float, too_many: bool) -> None:
    assert counts.too_many(share) is too_many
