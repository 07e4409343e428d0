"""Whole runs: what they write, and that stopping them at any moment changes no loss."""

import errno
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from training_runs import CHILD, at_step, child, expect_equal, lines

from mutua.folders import FolderError
from mutua.models import MutuaForConditionalGeneration, MutuaProcessor
from mutua.models.model_folder import ModelError
from mutua.training import (
    Recipe,
    RecipeError,
    TrainingError,
    TrainResult,
    load_recipe,
    train,
)
from mutua.training import checkpoint as checkpoint_module
from mutua.training import run as run_module
from mutua.training.batches import StepBatch
from mutua.training.signals import StopRequest
from mutua.training.step import Stepper


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, recipe_in: Callable[..., Recipe]) -> tuple[Path, TrainResult]:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    return folder / "run", train(recipe_in(folder), Console(quiet=True))


def test_what_a_run_writes(reference: tuple[Path, TrainResult]) -> None:
    run, result = reference
    assert (result.folder, result.step, result.interrupted) == (run / "model", 9, False)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 10))
    assert list(log[0]) == [
        "step",
        "loss",
        "accuracy",
        "learning_rate",
        "grad_norm",
        "utilisation",
        "samples_per_second",
        "seconds",
        "samples_bad",
        "samples_too_long",
        "samples_cut",
    ]
    assert log[-1]["loss"] < log[0]["loss"]
    assert [line["step"] for line in lines(run, "evaluations.jsonl")] == [3, 6, 9]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000008", "step-000009"]
    assert result.metrics["evaluation"]["scenes"]["overall"]["total"] == 4

    record = json.loads((run / "model" / "run.json").read_text())
    assert (record["seed"], record["step"], record["samples"]) == (3, 9, 36)
    assert record["versions"]["torch"] == torch.__version__
    assert record["device"].startswith("cpu")
    assert record["metrics"] == result.metrics
    assert load_recipe(run / "model" / "recipe.yaml") == load_recipe(run / "recipe.yaml")
    MutuaForConditionalGeneration.from_pretrained(run / "model")
    MutuaProcessor.from_pretrained(run / "model")


def test_tensorboard_has_the_scalars(reference: tuple[Path, TrainResult]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(reference[0] / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 10))
    assert [event.step for event in events.Scalars("evaluation/scenes")] == [3, 6, 9]


def test_ctrl_c_saves_and_the_resumed_run_is_equal_bit_by_bit(
    tmp_path: Path, recipe_in, reference: tuple[Path, TrainResult], console: Console
) -> None:
    """Two processes, with a data worker before and without one after."""
    recipe = recipe_in(tmp_path)
    status, told = child(tmp_path / "small.yaml", 4, "SIGINT", "train.workers=1")
    assert status == 130, told
    assert "Stopping after this step" in told
    assert "Stopped at step 5 of 9" in told
    assert "Traceback" not in told
    assert (tmp_path / "run/checkpoints/step-000005").is_dir()
    assert train(recipe, console).step == 9
    assert "Resuming from" in console.file.getvalue()  # type: ignore[attr-defined]
    expect_equal(tmp_path / "run", reference[0])


def test_kill_9_costs_no_more_than_the_steps_since_the_checkpoint(
    tmp_path: Path, recipe_in, reference: tuple[Path, TrainResult], console: Console
) -> None:
    recipe = recipe_in(tmp_path)
    assert child(tmp_path / "small.yaml", 6, "SIGKILL", "train.workers=1")[0] == -signal.SIGKILL
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    with (tmp_path / "run/log.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')  # the line that was being written
    train(recipe, console)
    assert "step-000004" in console.file.getvalue()  # type: ignore[attr-defined]
    expect_equal(tmp_path / "run", reference[0])


def test_a_run_that_fails_in_its_data_worker_ends(tmp_path: Path, recipe_in) -> None:
    """An unforeseen error must not leave the process waiting for a worker that never goes."""
    recipe_in(tmp_path)
    failing = """
import sys
from mutua.training import batches, load_recipe, train
def encode(*_): raise TypeError("unforeseen")
batches.encode = encode
train(load_recipe(sys.argv[1], ["train.workers=1"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", failing, str(tmp_path / "small.yaml")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "unforeseen" in done.stderr


def test_sigterm_is_as_good_as_ctrl_c(
    tmp_path: Path, recipe_in, reference: tuple[Path, TrainResult], console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 2, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    first = train(recipe_in(tmp_path), console)
    assert (first.interrupted, first.step, first.folder) == (True, 3, None)
    # An evaluation was due after this step: the signal broke it off, and the resumed run does it.
    assert lines(tmp_path / "run", "evaluations.jsonl") == []
    train(recipe_in(tmp_path), console)
    expect_equal(tmp_path / "run", reference[0])


def test_a_stop_in_the_last_evaluation_is_no_end(
    tmp_path: Path, recipe_in, reference: tuple[Path, TrainResult], console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the model would carry the figures of the evaluation before, and the next run call it finished."""
    calls = iter(range(3))

    def stopped(*args: Any, **options: Any) -> Any:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **options)

    evaluate = run_module.evaluate
    monkeypatch.setattr(run_module, "evaluate", stopped)
    recipe = recipe_in(tmp_path)
    result = train(recipe, console)
    assert (result.interrupted, result.step, result.metrics["evaluation"]) == (True, 9, {})
    assert not (tmp_path / "run/model").exists()
    assert "Stopped at step 9 of 9, in its evaluation." in console.file.getvalue()  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert train(recipe, console).metrics["evaluation"]
    expect_equal(tmp_path / "run", reference[0])


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_counts_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patch, StopRequest() as stop:
        patch.setattr("mutua.training.signals.os.write", broken)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested


@pytest.mark.slow
def test_ctrl_c_costs_nothing_where_nobody_reads(tmp_path: Path, recipe_in) -> None:
    """As in `... 2>&1 | tee log`: the Ctrl-C ends the `tee`, too."""
    recipe_in(tmp_path)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "small.yaml"), "4", "SIGINT"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=write,
        stderr=write,
        timeout=300,
    )
    os.close(write)
    assert done.returncode == 130
    assert (tmp_path / "run/checkpoints/step-000005").is_dir()


@pytest.fixture
def unfinished(tmp_path: Path, recipe_in, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped after step 7, with checkpoints at 4 and 7."""
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda _: os.kill(os.getpid(), signal.SIGINT))
        assert train(recipe_in(tmp_path), Console(quiet=True)).interrupted
    return tmp_path / "run"


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(
    unfinished: Path, tmp_path: Path, recipe_in, reference: tuple[Path, TrainResult], console: Console
) -> None:
    os.truncate(unfinished / "checkpoints/step-000007/model.safetensors", 5000)
    (unfinished / "checkpoints/step-000009.mutua-partial").mkdir()
    train(recipe_in(tmp_path), console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "model.safetensors is damaged" in told
    assert "Resuming from" in told
    assert "step-000004" in told
    expect_equal(unfinished, reference[0])
    assert not list(unfinished.rglob("*.mutua-partial"))
    assert (unfinished / "checkpoints/step-000007.damaged").is_dir()


def test_another_recipe_in_the_same_folder_is_refused(unfinished: Path, tmp_path: Path, recipe_in) -> None:
    before = sorted(unfinished.rglob("*"))
    with pytest.raises(RecipeError, match=r"train\.steps: 20, but the run in .* has 9\. Choose another output"):
        train(recipe_in(tmp_path, "train.steps=20"))
    with pytest.raises(RecipeError, match=r"data\.max_tokens: 99, but"):
        train(recipe_in(tmp_path, "data.max_tokens=99"))
    with pytest.raises(RecipeError, match=r"data\.train\.1\.weight: 2\.0, but"):
        train(recipe_in(tmp_path, "data.train.1.weight=2"))
    assert sorted(unfinished.rglob("*")) == before


def test_cadence_may_change_between_two_halves(
    unfinished: Path, tmp_path: Path, recipe_in, reference: tuple[Path, TrainResult]
) -> None:
    train(
        recipe_in(tmp_path, "train.log_every=3", "train.checkpoint_every=1", "train.keep_checkpoints=1"),
        Console(quiet=True),
    )
    assert lines(unfinished)[-1] == lines(reference[0])[-1]
    assert [path.name for path in (unfinished / "checkpoints").iterdir()] == ["step-000009"]


def test_memory_settings_may_change_between_two_halves(
    tmp_path: Path, recipe_in, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They change the order in which sums are taken, and on which row which dropout falls: there is none here."""
    exact = ("model.text.attention_dropout=0.0", "train.precision=fp32", "evaluate={}")
    memory = ("train.micro_batch_size=1", "train.gradient_checkpointing=true")
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    train(recipe_in(tmp_path / "whole", *exact), Console(quiet=True))
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda _: os.kill(os.getpid(), signal.SIGINT))
        assert train(recipe_in(tmp_path / "halves", *exact), Console(quiet=True)).interrupted
    train(recipe_in(tmp_path / "halves", *exact, *memory), Console(quiet=True))
    expected, found = (lines(tmp_path / name / "run") for name in ("whole", "halves"))
    assert found[:7] == expected[:7]
    utilisation, before = ([line.pop("utilisation") for line in log[7:]] for log in (found, expected))
    assert (utilisation, min(before) < 1) == ([1, 1], True), "a row alone has no padding"
    for here, there in zip(found[7:], expected[7:], strict=True):
        assert here == pytest.approx(there, rel=1e-5)


def test_other_versions_are_told(unfinished: Path, tmp_path: Path, recipe_in, console: Console) -> None:
    record = unfinished / "checkpoints/step-000007/run.json"
    content = record.read_text()
    changed = content.replace(f'"torch": "{torch.__version__}"', f'"torch": "{"9" * len(torch.__version__)}"')
    state = unfinished / "checkpoints/step-000007/trainer.json"
    old, _ = checkpoint_module._fingerprint(record), record.write_text(changed)
    parsed = json.loads(state.read_text())
    assert parsed["files"]["run.json"] == old
    parsed["files"]["run.json"] = checkpoint_module._fingerprint(record)
    state.write_text(json.dumps(parsed))
    train(recipe_in(tmp_path), console)
    assert f"torch {'9' * len(torch.__version__)} -> {torch.__version__}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_finished_run_is_not_done_twice(
    reference: tuple[Path, TrainResult], recipe_in, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, result = reference
    monkeypatch.delattr(Stepper, "backward")
    assert train(recipe_in(run.parent), console) == result
    assert "finished" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_recipe_that_failed_at_its_start_may_be_mended(tmp_path: Path, recipe_in, console: Console) -> None:
    with pytest.raises(ValueError, match="matches no parameter"):
        train(recipe_in(tmp_path, "train.freeze=[vision]"), console)
    assert train(recipe_in(tmp_path, "train.steps=3"), console).step == 3


def test_one_process_at_a_time(tmp_path: Path, recipe_in) -> None:
    recipe = recipe_in(tmp_path)
    recipe.output.mkdir()
    hold = "import fcntl; f = open('.lock', 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=recipe.output, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RecipeError, match=r"output: .*run: another process is at work in it; wait for it, or name"):
            train(recipe)
        holder.communicate(b"\n")


def test_a_file_system_without_locks_is_named(tmp_path: Path, recipe_in, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", none)
    told = r"output: .*run lies on a file system that cannot lock files \(Function not implemented\): name a folder"
    with pytest.raises(RecipeError, match=told):
        train(recipe_in(tmp_path))


def test_a_full_disk_keeps_the_last_good_checkpoint(
    tmp_path: Path, recipe_in, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_: Stepper) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint_module, "save_file", full)

    at_step(monkeypatch, 5, fill)
    with pytest.raises(FolderError, match=r"step-000008: cannot be written: .*No space left on device"):
        train(recipe_in(tmp_path), console)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000004"]


@pytest.mark.parametrize(
    ("every", "told"),
    [(0, "step 7: loss nan"), (3, r"step 6, evaluating \w+: the model computes numbers that are not")],
)
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    tmp_path: Path, recipe_in, console: Console, monkeypatch: pytest.MonkeyPatch, every: int, told: str
) -> None:
    def poison(stepper: Stepper) -> None:
        with torch.no_grad():
            stepper.model.model.connector.up.weight.fill_(float("nan"))

    at_step(monkeypatch, 5, poison)
    with pytest.raises(TrainingError, match=told):
        train(recipe_in(tmp_path, f"evaluate.every={every}"), console)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000004"]


def test_an_error_saves_the_last_whole_step(tmp_path: Path, recipe_in, console: Console, monkeypatch) -> None:
    """Losses go on as if nothing had been, dropout included."""
    original = Stepper.backward
    failing = [6]

    def fail(stepper: Stepper, batch: StepBatch) -> Any:
        out = original(stepper, batch)
        if stepper.begun in failing:
            failing.clear()
            raise MemoryError("none left")
        return out

    train(recipe_in(tmp_path), console)
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(Stepper, "backward", fail)
    with pytest.raises(MemoryError, match="none left"):
        train(recipe_in(tmp_path / "again"), console)
    assert "Step 6 is saved" in console.file.getvalue()
    train(recipe_in(tmp_path / "again"), console)
    assert lines(tmp_path / "again/run") == lines(tmp_path / "run")


def test_an_error_within_an_update_saves_nothing(tmp_path: Path, recipe_in, console: Console, monkeypatch) -> None:
    original = torch.optim.AdamW.step
    calls = []

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:
            raise RuntimeError("half of the weights are new")
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    with pytest.raises(RuntimeError, match="half of the weights"):
        train(recipe_in(tmp_path), console)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000004"]


def test_a_finished_run_sums_up(tmp_path: Path, recipe_in, console: Console) -> None:
    train(recipe_in(tmp_path), console)
    told = console.file.getvalue()
    log = lines(tmp_path / "run")
    assert f"9 steps, {9 * 4} samples in 0 min" in told
    assert f"loss {log[0]['loss']:.4f} -> {log[-1]['loss']:.4f}" in told
    assert f"log: {tmp_path / 'run/log.jsonl'}" in told


def test_training_goes_on_from_a_folder(
    reference: tuple[Path, TrainResult], tmp_path: Path, recipe_in, console: Console
) -> None:
    model = f"model={{path: {reference[1].folder}, attention_policy: causal}}"
    train(recipe_in(tmp_path, model, "train.steps=3"), console)
    assert lines(tmp_path / "run")[0]["loss"] < lines(reference[0])[0]["loss"]
    saved = MutuaForConditionalGeneration.from_pretrained(tmp_path / "run/model")
    assert saved.config.attention_policy == "causal"


def test_a_folder_without_a_model_is_named(tmp_path: Path, recipe_in, console: Console) -> None:
    with pytest.raises(ModelError, match=r"model\.path .*nothing: no model at"):
        train(recipe_in(tmp_path, f"model={{path: {tmp_path / 'nothing'}}}"), console)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_evaluation_computes_as_training_does(
    tmp_path: Path, recipe_in, console: Console, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    seen: list[tuple[bool, bool]] = []
    original = MutuaForConditionalGeneration.forward

    def forward(self: MutuaForConditionalGeneration, *args: object, **kwargs: object) -> object:
        seen.append((self.training, torch.is_autocast_enabled("cpu")))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MutuaForConditionalGeneration, "forward", functools.wraps(original)(forward))
    train(recipe_in(tmp_path, f"train.precision={precision}", "train.steps=3"), console)
    assert set(seen) == {(True, precision == "bf16"), (False, precision == "bf16")}
