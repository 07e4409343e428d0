"""The loggers of `train.loggers`: the same numbers in each, once, whatever happens to the run."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_loggers import FakeTrackio, FakeTrackioRun, FakeWandb, FakeWandbRun, Point, install
from rich.console import Console
from training_runs import at_step, expect_equal, lines

from mutua.training import RecipeError, TrainResult, train
from mutua.training.log import StepLog
from mutua.training.loggers import LOGGERS, Trackio, WeightsAndBiases

ALL = "train.loggers=[tensorboard, wandb, trackio]"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeWandb, FakeTrackio]:
    return install(monkeypatch)


def of_tensorboard(run: Path) -> list[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return sorted((n, e.step, pytest.approx(e.value)) for n in events.Tags()["scalars"] for e in events.Scalars(n))


def drawn(points: list[Point]) -> list[tuple[str, int, float]]:
    """Of the one run that there must be."""
    assert len({run for run, *_ in points}) == 1
    return sorted((name, step, value) for _, name, step, value in points)


def expect_whole(points: list[Point], run: Path) -> None:
    """Every line of both logs is there once, value by value (times aside)."""
    found = {(name, step): value for name, step, value in drawn(points)}
    assert len(found) == len(points), "a point stands twice"
    log, evaluations = lines(run), lines(run, "evaluations.jsonl")
    assert {step for name, step in found if name == "train/loss"} == {line["step"] for line in log}
    for line in log:
        assert found["train/loss", line["step"]] == line["loss"]
    assert {step for name, step in found if name == "evaluation/scenes"} == {line["step"] for line in evaluations}
    for line in evaluations:
        assert found["evaluation/scenes", line["step"]] == line["results"]["scenes"]["overall"]["accuracy"]


def stopped_at(index: int, folder: Path, recipe_in: Any, *overrides: str) -> TrainResult:
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, index, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        return train(recipe_in(folder, *overrides), Console(quiet=True))


def test_all_of_them_get_the_same(tmp_path: Path, recipe_in, fakes, console: Console) -> None:
    wandb, trackio = fakes
    run = tmp_path / "run"
    train(recipe_in(tmp_path, ALL), console)
    assert drawn(wandb.points) == drawn(trackio.points) == of_tensorboard(run)
    expect_whole(wandb.points, run)
    opened = {"project": "mutua", "name": "small", "dir": str(run / "loggers"), "mode": "offline", "resume": "allow"}
    assert wandb.opened[0].items() >= opened.items()
    assert wandb.axes == {"*": "step"}
    assert (wandb.exit_codes, trackio.open) == ([0], 0)
    told = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert f"{run / 'tensorboard'} and {run / 'loggers/wandb'} and trackio show --project mutua" in told


def test_none_of_them(tmp_path: Path, recipe_in, fakes, monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(recipe_in(tmp_path, "train.loggers=[]", "train.steps=3"), console)
    assert not (tmp_path / "run/tensorboard").exists()
    assert not (tmp_path / "run/loggers").exists()
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3]


def test_a_resumed_run_goes_on_in_the_same_one_and_nothing_stands_twice(
    tmp_path: Path, recipe_in, fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while an evaluation is due, then ended by an error that saves nothing, past its newest checkpoint."""
    assert stopped_at(2, tmp_path, recipe_in, ALL).step == 3
    assert lines(tmp_path / "run", "evaluations.jsonl") == []

    class Ended(BaseException):
        pass

    def end(_: object) -> None:
        raise Ended

    at_step(monkeypatch, 6, end)
    with pytest.raises(Ended):
        train(recipe_in(tmp_path, ALL), Console(quiet=True))
    wandb, trackio = fakes
    assert {step for _, _, step, _ in wandb.points} == {1, 2, 3, 4, 5, 6}
    train(recipe_in(tmp_path, ALL), Console(quiet=True))  # from step 4
    expect_whole(wandb.points, tmp_path / "run")
    expect_whole(trackio.points, tmp_path / "run")
    assert (wandb.exit_codes, trackio.open) == ([0, 1, 0], 0)


@pytest.mark.slow
def test_loggers_may_change_between_two_halves(tmp_path: Path, recipe_in, fakes, console: Console) -> None:
    wandb, _ = fakes
    stopped_at(4, tmp_path, recipe_in, "train.loggers=[wandb]")
    stopped_at(6, tmp_path, recipe_in, "train.loggers=[]")
    train(recipe_in(tmp_path, "train.loggers=[tensorboard, wandb]"), console)
    assert [step for name, step, _ in drawn(wandb.points) if name == "train/loss"] == [1, 2, 3, 4, 5, 8, 9]
    (tmp_path / "plain").mkdir()
    train(recipe_in(tmp_path / "plain"), console)
    expect_equal(tmp_path / "run", tmp_path / "plain/run")


def test_a_run_that_starts_over_is_a_new_one(tmp_path: Path, recipe_in, fakes, monkeypatch) -> None:
    """Without a checkpoint its recipe may be another one by then."""
    wandb, trackio = fakes

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    at_step(monkeypatch, 2, fail)
    with pytest.raises(KeyboardInterrupt):
        train(recipe_in(tmp_path, ALL), Console(quiet=True))
    train(recipe_in(tmp_path, ALL, "train.learning_rate=5e-4"), Console(quiet=True))
    for points in (wandb.points, trackio.points):
        runs = list(dict.fromkeys(run for run, *_ in points))
        assert len(runs) == 2
        expect_whole([point for point in points if point[0] == runs[1]], tmp_path / "run")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_told_before_any_work(tmp_path: Path, recipe_in, monkeypatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    monkeypatch.setattr("mutua.training.loop.open_mixture", lambda _: pytest.fail("read the data"))
    extra = "train" if name == "tensorboard" else name
    told = re.escape(f'train.loggers: {name} is not installed: pip install "mutua[{extra}]"')
    with pytest.raises(ImportError, match=told):
        train(recipe_in(tmp_path, f"train.loggers=[{name}]"), Console(quiet=True))


def test_a_folder_called_wandb_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio").mkdir()
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match="trackio is not installed"):
        Trackio()
    sys.modules.pop("trackio")


def test_an_old_package_is_told(fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes[0], "__version__", "0.16.2")
    with pytest.raises(ImportError, match=r"wandb 0\.16\.2 is installed, and 0\.31 is the oldest .* --upgrade"):
        WeightsAndBiases()
    text = PYPROJECT.read_text(encoding="utf-8")
    assert f'wandb = ["wandb>={WeightsAndBiases.OLDEST}"]' in text
    assert f'trackio = ["trackio>={Trackio.OLDEST}"]' in text


@pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "online"), ("WANDB_API_KEY", "x" * 40)])
def test_online_without_a_login_is_told_before_any_work(
    tmp_path: Path, recipe_in, fakes, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("mutua.training.loop.open_mixture", lambda _: pytest.fail("read the data"))
    with pytest.raises(OSError, match=r"train\.loggers: wandb: .* not logged in; WANDB_MODE=offline needs no login"):
        train(recipe_in(tmp_path, ALL), Console(quiet=True))


def test_a_mode_that_wandb_does_not_know(fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(OSError, match="for Settings mode got ofline; WANDB_MODE=offline needs no login"):
        WeightsAndBiases()


def test_online_where_the_environment_says_so(tmp_path: Path, recipe_in, fakes, monkeypatch, console: Console) -> None:
    wandb, _ = fakes
    wandb.logged_in = True
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    train(recipe_in(tmp_path, "train.loggers=[wandb]", "train.steps=3"), console)
    assert (wandb.opened[0]["mode"], wandb.opened[0]["project"]) == ("online", "mine")
    assert "log.jsonl and https://wandb.example/run " in console.file.getvalue()  # type: ignore[attr-defined]


def test_one_that_cannot_be_opened_closes_those_before_it(tmp_path: Path, recipe_in, fakes, monkeypatch) -> None:
    wandb, trackio = fakes

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("run was deleted")

    monkeypatch.setattr(wandb, "init", fail)
    told = r"wandb: run was deleted; mend it, or move .*loggers/wandb\.json away to begin a new run there"
    with pytest.raises(OSError, match=told):
        train(recipe_in(tmp_path, "train.loggers=[trackio, wandb]"), Console(quiet=True))
    assert trackio.open == 0


@pytest.mark.parametrize("kind", [FakeWandbRun, FakeTrackioRun])
def test_one_that_fails_ends_the_run_saved(tmp_path: Path, recipe_in, fakes, monkeypatch, console, kind: type) -> None:
    """As a full disk under TensorBoard does. The JSON Lines have the step, and the run goes on without the logger."""
    log = kind.log  # type: ignore[attr-defined]

    def fail(self: Any, data: dict[str, Any], step: int | None = None) -> None:
        if 6 in (step, data.get("step")) and any(name.startswith("evaluation") for name in data):
            raise ConnectionResetError(errno.ECONNRESET, "the service is gone")
        log(self, data, step=step)

    monkeypatch.setattr(kind, "log", fail)
    name = "wandb" if kind is FakeWandbRun else "trackio"
    with pytest.raises(OSError, match=rf"train\.loggers: {name}: .*the service is gone; the same command goes on"):
        train(recipe_in(tmp_path, ALL), console)
    assert "Step 6 is saved" in console.file.getvalue()
    assert lines(tmp_path / "run")[-1]["step"] == lines(tmp_path / "run", "evaluations.jsonl")[-1]["step"] == 6
    assert (fakes[0].exit_codes, fakes[1].open) == ([1], 0)
    train(recipe_in(tmp_path), console)
    (tmp_path / "plain").mkdir()
    train(recipe_in(tmp_path / "plain"), console)
    expect_equal(tmp_path / "run", tmp_path / "plain/run")


def test_all_are_closed_whichever_fails(tmp_path: Path, recipe_in, fakes, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("cannot")

    closed = []
    close = StepLog.close
    monkeypatch.setattr(FakeWandbRun, "finish", fail)
    monkeypatch.setattr(StepLog, "close", lambda self: closed.append(self) or close(self))
    with pytest.raises(OSError, match=r"train\.loggers: wandb: cannot"):
        train(recipe_in(tmp_path, "train.loggers=[trackio, wandb]", "train.steps=3"), Console(quiet=True))
    assert fakes[1].open == 0
    assert len(closed) == 3
    assert (tmp_path / "run/model").is_dir()


def test_what_fails_in_closing_does_not_hide_what_ended_the_run(tmp_path: Path, recipe_in, fakes, monkeypatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "gone")

    def fail(_: object) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(FakeWandbRun, "finish", gone)
    at_step(monkeypatch, 2, fail)
    with pytest.raises(MemoryError, match="none left"):
        train(recipe_in(tmp_path, ALL), Console(quiet=True))
    assert fakes[1].open == 0


@pytest.mark.slow
def test_a_damaged_note_is_told(tmp_path: Path, recipe_in, fakes, console: Console) -> None:
    stopped_at(4, tmp_path, recipe_in, ALL)
    note = tmp_path / "run/loggers/wandb.json"
    assert json.loads(note.read_text())["last"]["train/loss"] == 5
    for damaged in ("", "[]", '{"id": 1}'):
        note.write_text(damaged)
        with pytest.raises(ValueError, match=r"wandb\.json is damaged .* move it away"):
            train(recipe_in(tmp_path, ALL), console)
    note.unlink()
    train(recipe_in(tmp_path, ALL), console)
    assert len({run for run, *_ in fakes[0].points}) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("[wandb, wandb]", "names one twice"),
        ("[mlflow]", "got 'mlflow', expected 'tensorboard', 'wandb' or 'trackio'"),
        ("wandb", "train.loggers: got 'wandb', expected"),
    ],
)
def test_what_is_no_list_of_loggers(tmp_path: Path, recipe_in, given: str, told: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(told)):
        recipe_in(tmp_path, f"train.loggers={given}")
    assert list(LOGGERS) == ["tensorboard", "wandb", "trackio"]
