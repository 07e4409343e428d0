"""What the commands say to whoever gets them wrong, or has no room left; `ask` and `chat` have tables of their own."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from aki_checkpoint import write_checkpoint
from tiny_model import picture, save_model
from typer.testing import Result
from what_users_read import Mistake, check, mutua, rows


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """What a place holds: a model, a picture, two files of samples, an older result."""
    place = tmp_path_factory.mktemp("place")
    save_model(place / "model")
    picture(1).save(place / "a.png")
    (place / "mine.jsonl").write_text(_sample("yes") + _sample("no"))
    (place / "unanswered.jsonl").write_text(_sample("yes") + _sample())
    (place / "no picture.jsonl").write_text(_sample("yes") + _sample("no", image="nope.png"))
    (place / "long.jsonl").write_text(_sample("word " * 3000))
    (place / "empty.jsonl").touch()
    (place / "old.json").write_text("older results")
    return place


def _sample(*answers: str, image: str = "a.png") -> str:
    asked = [{"type": "image", "image": image}, {"type": "text", "text": "is it red?"}]
    replies = [{"role": "assistant", "content": answer} for answer in answers]
    return json.dumps({"id": "cat-1", "messages": [{"role": "user", "content": asked}, *replies]}) + "\n"


@pytest.fixture
def place(template, tmp_path, monkeypatch) -> Path:
    for path in template.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "old.json").unlink()
    shutil.copy(template / "old.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mutua.evaluation.several_models.evaluate", _no_question)
    return tmp_path


def _no_question(*_: Any, **__: Any) -> None:
    raise AssertionError("questions were asked before everything was looked at")


def evaluating(*words: object) -> Any:
    return lambda place: mutua("eval", "-m", "model", "-d", "mine.jsonl", *words)


def doing(*words: object) -> Any:
    return lambda place: mutua(*words)


def looking(*words: object) -> Any:
    return doing("look", *words, "-o", "look.png")


def on_a_full_disk(*words: object) -> Any:
    """No file may grow beyond a kilobyte, which fails as a full disk does."""

    def do(place: Path) -> Result:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
        try:
            return mutua(*words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return do


EVAL = ("eval", "-m", "model", "-d", "mine.jsonl")
FULL = "cannot be written (File too large): make room there, or name another place where you may write"
MISTAKES = [
    Mistake("eval, --json: no folder", evaluating("--json", "no/a.json"), ("--json no/a.json: there is no folder no",)),
    Mistake("eval, --json: a folder", evaluating("--json", "model"), ("--json model is a folder: name a file in it",)),
    Mistake("eval, --json: a device", evaluating("--json", "/dev/full"), ("--json /dev/full is a device or a pipe",)),
    Mistake(
        "eval, --json: read-only", evaluating("--json", "/proc/a.json"), ("--json /proc/a.json cannot be written",)
    ),
    Mistake("eval, --json: a name too long", evaluating("--json", "a" * 300), ("--json aaa", "File name too long")),
    Mistake("eval, --json: disk full", on_a_full_disk(*EVAL, "--json", "a.json"), ("--json a.json", FULL)),
    Mistake("eval, --json: disk full, older file", on_a_full_disk(*EVAL, "--json", "old.json"), ("old.json", FULL)),
    Mistake("eval, --figure: disk full", on_a_full_disk(*EVAL, "--figure", "a.png"), ("--figure a.png", FULL)),
    Mistake(
        "eval, --figure: no folder", evaluating("--figure", "no/a.png"), ("--figure no/a.png: there is no folder",)
    ),
    Mistake("eval, --figure: a folder", evaluating("--figure", "model"), ("--figure model is a folder",)),
    Mistake("eval, --figure: another format", evaluating("--figure", "a.pdf"), ("a.pdf: it is written as .png",)),
    Mistake("eval: limit 0", evaluating("--limit", "0"), ("'--limit'", "greater than or equal to 1")),
    Mistake("eval: limit below 0", evaluating("--limit", "-3"), ("'--limit'", "greater than or equal to 1")),
    Mistake("eval: batch size 0", evaluating("--batch-size", "0"), ("'--batch-size'", "greater than or equal to 1")),
    Mistake("eval: a model twice", evaluating("-m", "model"), ("--model model is given twice: name each once",)),
    Mistake("eval: data twice", evaluating("-d", "mine.jsonl"), ("--data mine.jsonl is given twice",)),
    Mistake(
        "eval: no such data", evaluating("-d", "imagenet"), ("no data 'imagenet': use easy-vqa, scenes, grid, or",)
    ),
    Mistake("eval: no such file", evaluating("-d", "no.jsonl"), ("no.jsonl: no such file",)),
    Mistake("eval: empty file", evaluating("-d", "empty.jsonl"), ("empty.jsonl holds no samples",)),
    Mistake(
        "eval: no answer in the last line",
        evaluating("-d", "unanswered.jsonl"),
        ("unanswered.jsonl: sample 'cat-1' has no answer: its last message is from the user",),
    ),
    Mistake(
        "eval: no picture in the last line",
        evaluating("-d", "no picture.jsonl"),
        ("no picture.jsonl:2: messages.0.content.0.image: file not found: nope.png",),
    ),
    Mistake(
        "eval: no such policy", evaluating("-p", "mmma"), ("unknown attention policy 'mmma': use one of causal, mma",)
    ),
    Mistake("mask: no folder", doing("mask", "-o", "no/a.png"), ("--output no/a.png: there is no folder no; make it",)),
    Mistake("mask: a folder", doing("mask", "-o", "model"), ("--output model is a folder",)),
    Mistake("mask: another format", doing("mask", "-o", "a.gif"), ("a.gif: it is written as .png or .svg",)),
    Mistake("mask: disk full", on_a_full_disk("mask", "-o", "a.svg"), ("--output a.svg", FULL)),
    Mistake("mask: a policy twice", doing("mask", "-p", "mma", "-p", "mma"), ("--policy mma is given twice",)),
    Mistake("mask: no such policy", doing("mask", "-p", "x"), ("unknown attention policy 'x'", "concentric")),
    Mistake(
        "mask: too many tokens for text",
        doing("mask", "--image-tokens", "576"),
        ("has 1165 tokens, and text shows 80 at most", "--output", "--image-tokens"),
    ),
    Mistake(
        "mask: more tokens than memory",
        doing("mask", "--image-tokens", "10000000000", "-o", "a.png"),
        ("at most 2,048 are drawn", "--image-tokens"),
    ),
    Mistake(
        "mask: a long sample",
        doing("mask", "long.jsonl", "-o", "a.png"),
        ("has at least 3,009 tokens", "a shorter conversation"),
    ),
    Mistake("mask: no such model", doing("mask", "-m", "no"), ("no model at no",)),
    Mistake("mask: no such file", doing("mask", "no.jsonl"), ("no.jsonl: no such file",)),
    Mistake("mask: empty file", doing("mask", "empty.jsonl"), ("empty.jsonl holds no sample",)),
    Mistake(
        "mask: no square image", doing("mask", "-p", "concentric", "--image-tokens", "5"), ("5 tokens is no square",)
    ),
    Mistake("look: no such picture", looking("no.png", "red?"), ("file not found: no.png",)),
    Mistake("look: no question", looking("a.png", " "), ("the question is empty",)),
    Mistake("look: the question first", looking("red?", "a.png"), ("file not found: red?",)),
    Mistake("look: no folder", doing("look", "a.png", "red?", "-o", "no/a.png"), ("--output no/a.png: there is no",)),
    Mistake("look: another format", doing("look", "a.png", "red?", "-o", "a.gif"), ("a.gif: it is written as",)),
    Mistake(
        "look: disk full",
        on_a_full_disk("look", "a.png", "red?", "-m", "model", "-o", "b.png"),
        ("--output b.png", FULL),
    ),
    Mistake("look: a model twice", looking("a.png", "red?", "-m", "x", "-m", "x"), ("--model x is given twice",)),
    Mistake("look: a policy twice", looking("a.png", "red?", "-p", "mma", "-p", "mma"), ("--policy mma is given",)),
    Mistake("look: no such policy", looking("a.png", "red?", "-p", "x"), ("unknown attention policy 'x'",)),
    Mistake("look: no such model", looking("a.png", "red?", "-m", "no"), ("no model at no",)),
    Mistake("look: nowhere to draw", doing("look", "a.png", "red?"), ("Missing option '--output'",)),
    Mistake("leakage: no such backend", doing("leakage", "model", "-b", "x"), ("'x'", "use one of mutua_auto")),
    Mistake("leakage: no such model", doing("leakage", "no"), ("no model at no",)),
    Mistake("unlock: no such model", doing("unlock", "no"), ("no model at no",)),
    Mistake("unlock: Mutua's own model", doing("unlock", "model"), ("never locked", "mutua eval -m model -p causal")),
    Mistake("unlock: no such policy", doing("unlock", "model", "-p", "x"), ("unknown attention policy 'x'",)),
    Mistake("unlock: no such data", doing("unlock", "model", "--calibrate", "imagenet"), ("no data 'imagenet'",)),
    Mistake("unlock: nothing to print", doing("unlock", "model", "--json"), ("--calibrate DATA", "name the data")),
    Mistake("convert: nothing there", doing("convert", "aki", "no", "out"), ("no/config.json cannot be read",)),
    Mistake(
        "convert: target there", doing("convert", "aki", "aki", "model"), ("model exists already: name a new folder",)
    ),
    Mistake(
        "convert: disk full", on_a_full_disk("convert", "aki", "aki", "out"), ("out: cannot be written", "Make room")
    ),
    Mistake(
        "export: no converted model", doing("export", "aki", "model", "out"), ("model/aki is missing", "--converted")
    ),
    Mistake(
        "quickstart: no folder can be made",
        doing("quickstart", "--output", "a.png/runs"),
        ("--output a.png/runs: no folder can be made there (Not a directory); name another",),
    ),
    Mistake(
        "quickstart: disk full", on_a_full_disk("quickstart", "--output", "out"), ("--output out/results.json", FULL)
    ),
    Mistake("quickstart: no time", doing("quickstart", "--minutes", "0"), ("--minutes", "greater than or equal to 1")),
    Mistake("quickstart: no end", doing("quickstart", "--minutes", "inf"), ("--minutes", "less than or equal to 1440")),
    Mistake(
        "study: no such policy", doing("study", "--policies", "causal,magic"), ("unknown attention policy 'magic'",)
    ),
    Mistake("study: no baseline", doing("study", "--policies", "mma"), ("mma: causal must be among them",)),
    Mistake("study: a policy twice", doing("study", "--policies", "causal,causal"), ("causal is given twice",)),
    Mistake("study: no such backbone", doing("study", "--backbones", "gpt"), ("no backbone 'gpt': choose of llama",)),
    Mistake(
        "study: no folder can be made",
        doing("study", "--out", "a.png/x"),
        ("--out a.png/x: no folder can be made there",),
    ),
    Mistake("a path in brackets", doing("leakage", "[red]no[/red]/x:bug:"), ("no model at [red]no[/red]/x:bug:",)),
    Mistake("no such command", doing("evaluate"), ("No such command 'evaluate'",)),
    Mistake("no such option", doing("eval", "--out", "x"), ("No such option: --out",)),
    Mistake("convert: neither source nor target", doing("convert", "aki"), ("Missing argument 'SRC'",)),
]


@rows(MISTAKES)
def test_mistake(mistake, place):
    if mistake.name == "convert: disk full":
        write_checkpoint(place / "aki")
    before = {path.name for path in place.rglob("*")}
    check(mistake, place)
    left = {path.name for path in place.rglob("*")} - before
    assert left <= {"out"}, "half-written files"
    assert (place / "old.json").read_text() == "older results"


def test_the_table_is_printed_and_an_older_file_stays_where_the_disk_fills_up_meanwhile(place, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.several_models.evaluate", _asked)

    def full(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    done = mutua(*EVAL, "--json", "old.json")
    assert done.exit_code == 1
    assert "overall" in done.stdout
    assert "old.json cannot be written (No space left on device)" in done.stderr
    assert (place / "old.json").read_bytes() == b"older results"
    assert not list(place.glob("*partial*"))


def _asked(*_: Any, **__: Any) -> Any:
    from mutua.evaluation.accuracy import Accuracy, Record

    return Accuracy((Record("1", "exists", "is it red?", "yes", "yes"),))


def test_a_link_to_a_result_stays_a_link(place, monkeypatch):
    monkeypatch.setattr("mutua.evaluation.several_models.evaluate", _asked)
    (place / "results").mkdir()
    (place / "link.json").symlink_to(place / "results" / "there.json")
    assert mutua(*EVAL, "--json", "link.json").exit_code == 0
    assert json.loads((place / "results" / "there.json").read_text())["mine.jsonl"]["model"]["overall"]["correct"] == 1
    assert (place / "link.json").is_symlink()


def test_doctor_names_an_extra_in_brackets(monkeypatch):
    monkeypatch.setattr("mutua.cli.doctor.util.find_spec", lambda name: None)
    said = mutua("doctor").stdout
    assert 'missing: pip install "mutua[gguf]"' in said
    assert 'missing: pip install "mutua[train]"' in said


def test_help_names_every_policy():
    from mutua.attention import POLICIES
    from mutua.cli.common import POLICY_NAMES

    assert POLICY_NAMES.split(", ") == list(POLICIES)
    for command in ("ask", "chat", "eval", "leakage", "audit", "mask"):
        said = " ".join(mutua(command, "--help").stdout.replace("│", " ").split())
        assert POLICY_NAMES in said, command


def test_ctrl_c_during_imports_is_quiet(place, monkeypatch):
    """Transformers makes an ImportError of it."""

    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            raise ModuleNotFoundError("Could not import module 'AttentionInterface'.") from error

    for error in (interrupted, _ctrl_c):
        monkeypatch.setattr("mutua.inspection.draw.sketch", error)
        done = mutua("mask")
        assert done.exit_code == 130
        assert done.stderr == "interrupted\n"


def _ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_before_there_is_a_command(monkeypatch):
    from mutua.__main__ import main

    monkeypatch.setattr("mutua.cli.app", _ctrl_c_app)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def _ctrl_c_app(prog_name: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "words", [("doctor",), ("data", "check", "mine.jsonl"), ("audit", "a.png", "is it?"), ("mask",)]
)
def test_a_full_disk_behind_stdout(place, monkeypatch, words):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mutua.cli.common.out.print", full)
    monkeypatch.setattr("typer.echo", full)
    done = mutua(*words)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert "error: [Errno 28] No space left on device" in done.stderr


def test_a_reader_that_goes_away_is_no_error(monkeypatch):
    def closed(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("mutua.inspection.draw.sketch", closed)
    done = mutua("mask")
    assert done.exit_code == 1
    assert not done.output
