"""`mutua convert aki` and `mutua export aki` as a person uses them."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest
from aki_checkpoint import write_checkpoint
from what_users_read import mutua


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("aki") / "released", tokenizer=True)


def test_there_and_back(released, tmp_path):
    result = mutua("convert", "aki", released, tmp_path / "converted")
    assert result.exit_code == 0, result.output
    assert "a Mutua model, policy mma." in " ".join(result.stdout.split())
    result = mutua("ask", "-m", tmp_path / "converted", "how are you?", "--max-new-tokens", 3)
    assert result.exit_code == 0, result.output
    assert mutua("export", "aki", tmp_path / "converted", tmp_path / "back").exit_code == 0
    assert filecmp.cmp(released / "model.safetensors", tmp_path / "back" / "model.safetensors", shallow=False)


def test_configs_from_elsewhere(released, tmp_path):
    (released / "vision").rename(tmp_path / "vision")
    try:
        result = mutua("convert", "aki", released, tmp_path / "out")
        assert result.exit_code == 1
        assert "with --vision-encoder, give a folder with its config.json" in " ".join(result.stderr.split())
        assert not (tmp_path / "out").exists()
        result = mutua("convert", "aki", released, tmp_path / "out", "--vision-encoder", tmp_path / "vision")
        assert result.exit_code == 0, result.output
    finally:
        (tmp_path / "vision").rename(released / "vision")


def test_no_tokenizer_is_said(tmp_path):
    result = mutua("convert", "aki", write_checkpoint(tmp_path / "bare"), tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "has no tokenizer files" in " ".join(result.stdout.split())


def test_a_mistake_is_one_line(tmp_path):
    result = mutua("convert", "aki", tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert "config.json cannot be read" in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
