"""The command as a person uses it: right answers, one line for every mistake, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.table import Table
from rich.text import Text
from tiny_model import make_model, picture, save_model
from typer.testing import Result
from what_users_read import mutua

from mutua.cli.common import PlainConsole


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    picture(1).save(path)
    return path


def assert_error(result: Result, message: str) -> None:
    """One line on stderr, exit code 1, no traceback."""
    assert result.exit_code == 1, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_ask_streams_an_answer(folder, image):
    result = mutua("ask", image, "is it red?", "--model", folder, "--max-new-tokens", 3)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("\n")


def test_what_is_printed_is_the_answer_and_nothing_else(monkeypatch):
    """As the README has it, with the packaged model."""
    monkeypatch.chdir(Path(__file__).parents[2])
    words = ("ask", "docs/images/scene.png", "what colour is the object left of the small red circle?")
    assert mutua(*words).stdout == "blue\n"
    assert json.loads(mutua(*words, "--json").stdout)["answer"] == "blue"


def test_ask_json_is_one_object(folder, image):
    result = mutua("ask", image, image, "which?", "--model", folder, "--json", "--policy", "causal")
    record = json.loads(result.stdout)
    assert record["images"] == [str(image)] * 2
    assert record["policy"] == "causal"
    assert isinstance(record["answer"], str)


def test_ask_without_a_picture(folder):
    assert mutua("ask", "is it red?", "--model", folder, "--max-new-tokens", 2).exit_code == 0


def test_a_missing_file(folder):
    assert_error(mutua("ask", "nope.png", "what?", "--model", folder), "file not found: nope.png")


def test_not_an_image(folder, tmp_path):
    (tmp_path / "notes.png").write_text("hello")
    assert_error(mutua("ask", tmp_path / "notes.png", "what?", "--model", folder), "not an image")
    assert_error(mutua("ask", tmp_path, "what?", "--model", folder), "is a folder")


def test_a_truncated_image(folder, tmp_path):
    picture(2, 200).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    assert_error(mutua("ask", tmp_path / "cut.png", "what?", "--model", folder), "damaged image")


@pytest.mark.parametrize("limit", [100, 700])
def test_a_decompression_bomb(folder, image, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # 1,024 pixels: beyond twice the first, once the second
    assert_error(mutua("ask", image, "what?", "--model", folder), "image too large")


def test_an_empty_or_forgotten_question(folder, image):
    assert_error(mutua("ask", image, "  ", "--model", folder), "the question is empty")
    assert_error(mutua("ask", image, "--model", folder), "the last word must be the question")


def test_an_unknown_model_or_policy(folder, image):
    assert_error(mutua("ask", image, "what?", "--model", "no/such/folder"), "no model at no/such/folder")
    assert_error(mutua("ask", image, "what?", "--model", folder, "--policy", "mmma"), "unknown attention policy 'mmma'")


def test_a_model_of_another_kind(image, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert_error(mutua("ask", image, "what?", "--model", tmp_path), "is not a Mutua model")


@pytest.mark.parametrize("policy", ["mma", "causal"])
def test_leakage_of_a_model_that_computes_nothing_finite(folder, tmp_path, policy):
    model = make_model(policy)
    model.model.connector.down.weight.data[:] = 3e38  # a number still, but no sum of such is
    result = mutua("leakage", save_model(tmp_path, model), "--conversations", 1)
    assert result.exit_code == 1
    assert "NOT FINITE" in result.stdout
    assert mutua("leakage", folder, "--conversations", 1).exit_code == 0


def test_usage_errors_exit_with_2(image):
    assert mutua("ask", image, "what?", "--max-new-tokens", "0").exit_code == 2
    assert mutua("nonsense").exit_code == 2


@pytest.mark.parametrize("command", ["ask", "chat", "train", "eval", "audit", "look", "quickstart", "doctor"])
def test_help_has_examples(command):
    result = mutua(command, "--help")
    assert result.exit_code == 0
    assert f"mutua {command}" in result.stdout
    assert "Examples" in result.stdout


def test_chat_goes_on_after_a_slip(folder, image):
    lines = "is it red?\n/image nope.png\n/jump\nand now?\n/new\n/quit\nnever read\n"
    result = mutua("chat", image, "--model", folder, "--max-new-tokens", 2, stdin=lines)
    assert result.exit_code == 0, result.output
    assert "file not found: nope.png" in result.stderr
    assert "no command /jump" in result.stderr


def test_eval_prints_families_and_writes_every_answer(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mutua.cli.progress.SECONDS_BETWEEN_LINES", 0)
    image = tmp_path / "a.png"
    picture(3).save(image)
    chat = [
        {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "is it red?"}]},
        {"role": "assistant", "content": "yes"},
    ]
    data = tmp_path / "mine.jsonl"
    data.write_text(json.dumps({"id": "1", "family": "exists", "messages": chat}) + "\n")
    result = mutua("eval", "-m", folder, "-d", data, "--json", tmp_path / "out.json", "--figure", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert "exists" in result.stdout
    assert f"{folder} on {data}: 1 of 1, time left " in result.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written[str(data)][str(folder)]["records"][0]["expected"] == "yes"
    assert Image.open(tmp_path / "out.png").width > 100
    assert_error(mutua("eval", "-m", folder, "-d", "imagenet"), "no data 'imagenet'")
    for option in ("--json", "--figure"):
        nowhere = tmp_path / "nowhere" / "out"
        assert_error(
            mutua("eval", "-m", folder, "-d", data, option, nowhere), f"{option} {nowhere}: there is no folder"
        )
        assert_error(mutua("eval", "-m", folder, "-d", data, option, tmp_path), f"{option} {tmp_path} is a folder")
    assert_error(mutua("eval", "-m", folder, "-d", data, "--figure", "a.pdf"), "a.pdf: it is written as .png; name")


def test_a_recipe_with_a_mistake(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\nseeed: 1\n")
    assert_error(mutua("train", recipe), "seeed")


def test_doctor_names_versions_and_backends():
    result = mutua("doctor", "--json")
    report = json.loads(result.stdout)
    assert report["versions"]["torch"]
    assert "mutua_sdpa" in report["attention backends"]


def test_version():
    import mutua as package

    assert mutua("--version").stdout.strip() == package.__version__


def test_control_characters_are_spelled_and_styles_stay(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    table = Table("\x1b[1mname", "family", title=Text("\x1b]0;title"))
    table.add_row("\x1b[2J", Text("\x9b of a family", style="red"))
    console = PlainConsole()
    console.file = StringIO()
    console.print(Text.assemble(("error: ", "red"), "\x1b[2J"), "a\n\tb")
    console.print(table)
    shown = console.file.getvalue()
    assert "\x1b[31merror: \x1b[0m\\x1b[2J a\n" in shown
    for spelled in (r"\x1b[1mname", r"\x1b]0;title", r" \x1b[2J ", r"\x9b"):
        assert spelled in shown
    for obeyed in ("\x1b[2J", "\x1b]", "\x9b"):
        assert obeyed not in shown


@pytest.mark.parametrize(
    ("dead", "status", "read"), [("stderr", 0, b"an answer\n"), ("stdout", 1, b"")], ids=["notes", "answers"]
)
def test_a_command_ends_where_nobody_reads_its_answers_not_its_notes(dead, status, read):
    told = {"stderr": "err", "stdout": "out"}[dead]
    code = f"from mutua.cli.common import err, out; {told}.print('a'); {told}.print('b'); out.print('an answer')"
    end, pipe = os.pipe()
    os.close(end)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, dead: pipe}
    done = subprocess.run([sys.executable, "-c", code], **streams, timeout=60)
    os.close(pipe)
    assert (done.returncode, done.stdout or b"") == (status, read)
