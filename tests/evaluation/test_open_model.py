"""Models of others are asked as ours are: any image-text model of Transformers, by its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import picture, user
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from vlm_processors import _llava
from what_users_read import mutua

from mutua.api import PACKAGED
from mutua.evaluation.benchmark import Protocol
from mutua.evaluation.benchmarks import BENCHMARKS
from mutua.evaluation.fixtures import write_tsv
from mutua.evaluation.open_model import open_model
from mutua.evaluation.suite import settings_of
from mutua.models import MutuaForConditionalGeneration
from mutua.models.model_folder import ModelError
from mutua.respond import respond

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    """A LLaVA of random weights."""
    folder = tmp_path_factory.mktemp("llava")
    processor = _llava()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    side = processor.image_processor.crop_size["height"]
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=side, patch_size=processor.patch_size),
        text_config=LlamaConfig(
            **sizes, vocab_size=len(processor.tokenizer), eos_token_id=processor.tokenizer.eos_token_id
        ),
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_model_of_others_answers_alone_as_in_a_batch(llava: Path):
    model, processor = open_model(str(llava), None, CPU)
    assert not model.training
    talks = [[user(picture(1), "what colour is the circle?")], [user(picture(2), "red?")]]
    together = respond(model, processor, talks, max_new_tokens=4)
    assert together == [respond(model, processor, [talk], max_new_tokens=4)[0] for talk in talks]


def test_it_takes_a_suite(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    short = replace(BENCHMARKS["pope"], protocol=Protocol("as random weights say it", 4))
    monkeypatch.setitem(BENCHMARKS, "pope", short)
    write_tsv(tmp_path / "data")
    done = mutua("eval", "-m", llava, "--suite", "paper", "-d", "data", "--tasks", "pope", "--limit", "2", "-o", "out")
    assert done.exit_code == 0, done.output
    assert "POPE F1" in done.stdout


def test_ours_are_opened_as_ours():
    for name in (None, str(PACKAGED)):
        assert isinstance(open_model(name, "causal", CPU)[0], MutuaForConditionalGeneration)


def test_a_policy_unlocks_it(llava: Path):
    locked, unlocked = (settings_of(*open_model(str(llava), policy, CPU), "llava", 1, None) for policy in (None, "mma"))
    assert (locked.policy, unlocked.policy) == ("", "mma")
    assert locked.processor == unlocked.processor


def test_what_cannot_be_asked_is_refused(llava: Path, tmp_path: Path):
    with pytest.raises(ModelError):
        open_model(str(tmp_path / "nothing"), None, CPU)
    for path in llava.iterdir():
        (tmp_path / path.name).symlink_to(path)
    weights = load_file(llava / "model.safetensors")
    weights.pop(next(name for name in weights if "vision" in name))
    (tmp_path / "model.safetensors").unlink()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks"):
        open_model(str(tmp_path), None, CPU)
