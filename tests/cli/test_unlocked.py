"""The commands on a model of someone else's: it is unlocked, asked, proved and looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration
from what_users_read import mutua as command

import mutua

SCENE = str(Path(__file__).parents[2] / "docs/images/scene.png")


@pytest.fixture
def folder(saved_llava) -> str:
    return str(saved_llava)


def test_it_is_asked_as_it_was_made_or_unlocked(folder):
    done = command("ask", SCENE, "is it red?", "-m", folder, "--json", "--max-new-tokens", 2)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["policy"] is None
    assert "unlocked" not in done.stderr
    done = command("ask", SCENE, "is it red?", "-m", folder, "-p", "mma", "--json", "--max-new-tokens", 2)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["policy"] == "mma"
    assert "answers may be worse until it is trained" in done.stderr
    done = command(
        "chat", SCENE, "-m", folder, "-p", "causal", "--max-new-tokens", 2, stdin="is it red?\nsure?\n/quit\n"
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("policy", ["mma", pytest.param("causal", marks=pytest.mark.slow)])
def test_it_keeps_the_rule(folder, policy):
    done = command("leakage", folder, "-p", policy, "--conversations", 1, "-b", "sdpa")
    assert done.exit_code == 0, done.output
    assert f"policy {policy}, backend mutua_sdpa" in done.stdout
    assert "0.0e+00" in done.stdout


def test_its_tokens_are_shown(folder):
    done = command("audit", SCENE, "is it red?", "-m", folder)
    assert done.exit_code == 0, done.output
    assert "image" in done.stdout
    assert "images 1" in done.stdout
    assert "look-ahead cells 0" not in done.stdout


def test_its_mask_is_drawn_in_its_own_tokens(folder):
    done = command("mask", "-m", folder, "-p", "mma", "--image-tokens", 2)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    images = [line for line in lines if line.lstrip().startswith("image")]
    assert len(images) == 4  # two of each picture
    assert all("◆" in line for line in images)
    assert not [line for line in lines if "◆" in line and line not in images]


@pytest.fixture
def file(tmp_path) -> Path:
    """Two questions with their answers."""
    parts = [{"type": "image", "image": SCENE}, {"type": "text", "text": "is it red?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    place = tmp_path / "mine.jsonl"
    place.write_text("".join(json.dumps({"id": str(n), "messages": messages}) + "\n" for n in range(2)))
    return place


def test_it_is_said_whether_it_can_be_unlocked(folder):
    done = command("unlock", folder)
    assert done.exit_code == 0, done.output
    assert "can be unlocked: policy mma was tried" in done.stdout


def test_it_is_measured_locked_and_unlocked(folder, file):
    done = command("unlock", folder, "--calibrate", file, "--max-new-tokens", 2)
    assert done.exit_code == 0, done.output
    for piece in ("loss on the replies", "right more often", "on 2 samples"):
        assert piece in done.stdout
    assert "docs/unlock.md" in done.stderr
    done = command("unlock", folder, "--calibrate", file, "--max-new-tokens", 2, "-p", "causal", "--json")
    record = json.loads(done.stdout)
    assert record["loss"]["difference"]["value"] == 0
    assert record["said"] == "Unlocked, it is the same on 2 samples."
    assert len(record["records"]) == 2


def test_it_is_asked_data_of_ones_own(folder, file, tmp_path):
    words = ["eval", "-m", folder, "-d", file, "--max-new-tokens", 2, "--json", tmp_path / "result.json"]
    done = command(*words)
    assert done.exit_code == 0, done.output
    assert "unlocked" not in done.stderr
    answers = json.loads((tmp_path / "result.json").read_text())[str(file)][folder]["records"]
    assert len(answers) == 2
    done = command(*words, "-p", "mma")
    assert done.exit_code == 0, done.output
    assert "unlocked: its answers may be worse" in done.stderr


@pytest.mark.slow
def test_the_policy_that_it_was_saved_under_counts(folder, tmp_path):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    mutua.unlock(LlavaForConditionalGeneration.from_pretrained(folder), processor, policy="prefix").save_pretrained(
        tmp_path
    )
    processor.save_pretrained(tmp_path)
    done = command("ask", SCENE, "is it red?", "-m", tmp_path, "--json", "--max-new-tokens", 2)
    assert json.loads(done.stdout)["policy"] == "prefix"


def test_weights_that_are_missing_are_not_made_up(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "damaged")
    file = tmp_path / "damaged/model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if "vision" not in name}
    save_file(weights, file, metadata={"format": "pt"})
    done = command("ask", SCENE, "is it red?", "-m", tmp_path / "damaged")
    assert done.exit_code == 1
    assert "lacks" in done.stderr
