"""What a saved model carries, so that it opens where nobody has imported Mutua."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import make_model, make_processor, save_model
from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer

from mutua.models import MutuaForConditionalGeneration, MutuaProcessor


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("saved"))


def elsewhere(code: str) -> str:
    """What a process prints that has not imported Mutua."""
    code = f"import transformers as t; t.logging.set_verbosity_error()\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_with_trust_it_loads_without_the_import(folder, tmp_path):
    said = elsewhere(
        f"""
for auto in (t.AutoConfig, t.AutoModelForImageTextToText, t.AutoModelForMultimodalLM, t.AutoModel, t.AutoProcessor):
    loaded = auto.from_pretrained({str(folder)!r}, trust_remote_code=True)
    print(type(loaded).__name__)
    loaded.save_pretrained({str(tmp_path)!r})
"""
    )
    whole = "MutuaForConditionalGeneration"
    assert said.split() == ["MutuaConfig", whole, whole, "MutuaModel", "MutuaProcessor"]
    # Saved again it carries the same module, and no copies of the package's own.
    assert [path.name for path in tmp_path.glob("*.py")] == ["modeling_mutua.py"]
    assert (tmp_path / "modeling_mutua.py").read_text() == (folder / "modeling_mutua.py").read_text()


def test_without_trust_it_asks_for_it_and_opens_no_half(folder):
    said = elsewhere(
        f"""
for auto in (t.AutoConfig, t.AutoModelForImageTextToText, t.AutoModelForMultimodalLM, t.AutoModel, t.AutoProcessor):
    try:
        print(type(auto.from_pretrained({str(folder)!r}, trust_remote_code=False)).__name__)
    except ValueError as error:
        print("refused", "trust_remote_code=True" in str(error))
"""
    )
    assert said.splitlines() == ["refused True"] * 5


@pytest.mark.slow
def test_pipelines_open_it_without_the_import(folder):
    """`any-to-any` asks for torchvision, which only videos need."""
    said = elsewhere(
        f"""
import transformers.pipelines.any_to_any as module
from PIL import Image
module.requires_backends = lambda *_: None
parts = [{{"type": "image", "image": Image.new("RGB", (32, 32))}}, {{"type": "text", "text": "is it red?"}}]
for task in ("image-text-to-text", "any-to-any"):
    answers = t.pipeline(task, model={str(folder)!r}, trust_remote_code=True)
    out = answers(text=[{{"role": "user", "content": parts}}], max_new_tokens=3, return_full_text=False)
    print(type(answers.model).__name__, type(answers.processor).__name__, type(out[0]["generated_text"]).__name__)
"""
    )
    assert said.splitlines() == ["MutuaForConditionalGeneration MutuaProcessor str"] * 2


@pytest.mark.slow
def test_no_processor_is_half_of_one(folder, tmp_path):
    """Checkpoints of trainers that were given no processor: a bare tokenizer would take no picture."""
    make_model("mma").save_pretrained(tmp_path / "none")
    make_model("mma").save_pretrained(tmp_path / "tokenizer")
    make_processor(make_model()).tokenizer.save_pretrained(tmp_path / "tokenizer")
    said = elsewhere(
        f"""
def opens(**options):
    for place in ("none", "tokenizer"):
        try:
            print(type(t.AutoProcessor.from_pretrained(f"{tmp_path!s}/{{place}}", **options)).__name__)
        except (ValueError, OSError):
            print("refused")
opens(trust_remote_code=False)
opens(trust_remote_code=True)
import mutua
opens()
"""
    )
    assert said.splitlines() == ["refused"] * 6
    assert type(AutoTokenizer.from_pretrained(tmp_path / "tokenizer")).__name__ != "MutuaProcessor"


def test_after_the_import_no_trust_is_needed(folder):
    said = elsewhere(
        f"""
import mutua
for auto in (t.AutoConfig, t.AutoModelForImageTextToText, t.AutoModelForMultimodalLM, t.AutoModel, t.AutoProcessor):
    print(type(auto.from_pretrained({str(folder)!r})).__name__)
"""
    )
    whole = "MutuaForConditionalGeneration"
    assert said.split() == ["MutuaConfig", whole, whole, "MutuaModel", "MutuaProcessor"]
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert type(auto.from_pretrained(folder)) is MutuaForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(folder)) is MutuaProcessor


def test_the_configs_name_the_module(folder):
    assert json.loads((folder / "config.json").read_text())["auto_map"]["AutoConfig"] == "modeling_mutua.MutuaConfig"
    processor = json.loads((folder / "processor_config.json").read_text())
    assert processor["auto_map"] == {"AutoProcessor": "modeling_mutua.MutuaProcessor"}


def test_a_card_is_written_once(folder, tmp_path):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "import mutua" in card
    assert "Attention policy `mma`" in card
    (tmp_path / "README.md").write_text("mine")
    make_model("mma").save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
