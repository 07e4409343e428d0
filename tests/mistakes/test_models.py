"""Models that are damaged, incomplete, misnamed or asked for more than they can: what the user reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import make_model, make_processor, picture, user
from torch import Tensor
from what_users_read import Mistake, check, mutua, rows

import mutua as library
from mutua.cli import app  # noqa: F401 (imported before the pictures are drawn, or the first row would pay for it)
from mutua.inspection.leakage import prove

Weights = dict[str, Tensor]
_UP = "model.connector.up.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with a model as it should be."""
    folder = tmp_path_factory.mktemp("whole")
    model = make_model("mma", max_position_embeddings=192)
    model.save_pretrained(folder)
    make_processor(model).save_pretrained(folder)
    picture(1).save(folder / "ok.png")
    return folder


@pytest.fixture
def place(whole, tmp_path, monkeypatch) -> Path:
    """A place with a copy of it in `X`, where the commands run."""
    shutil.copytree(whole, tmp_path / "X")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(*more: object) -> Any:
    return mutua("ask", "X/ok.png", "is it red?", "-m", "X", *more)


def broken(change: Callable[[Path], object]) -> Callable[[Path], Any]:
    """Changes the folder `X`, then asks."""

    def do(place: Path) -> Any:
        change(place / "X")
        return ask("--max-new-tokens", 2)

    return do


def weights(change: Callable[[Weights], Weights]) -> Callable[[Path], Any]:
    def change_file(folder: Path) -> None:
        changed = change(load_file(folder / "model.safetensors"))
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})

    return broken(change_file)


def config(section: str = "", **values: Any) -> Callable[[Path], Any]:
    """Values in config.json; `None` takes a key out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        target = content[section] if section else content
        for key, value in values.items():
            target[key] = value
            if value is None:
                del target[key]
        (folder / "config.json").write_text(json.dumps(content))

    return broken(change)


def written(name: str, content: bytes) -> Callable[[Path], Any]:
    return broken(lambda folder: (folder / name).write_bytes(content))


def without(name: str) -> Callable[[Path], Any]:
    return broken(lambda folder: (folder / name).unlink())


def set_first(value: float) -> Callable[[Weights], Weights]:
    def change(given: Weights) -> Weights:
        given[_UP].view(-1)[0] = value
        return given

    return change


def only_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lost_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


FOLDERS = [
    Mistake("no vision weights", weights(lambda w: {n: v for n, v in w.items() if "vision" not in n}), ("lacks", "18")),
    Mistake(
        "no connector",
        weights(lambda w: {n: v for n, v in w.items() if "connector" not in n}),
        ("lacks", "model.connector.up"),
    ),
    Mistake("no layer", weights(lambda w: {n: v for n, v in w.items() if "layers.1." not in n}), ("lacks", "layers.1")),
    Mistake("one bias gone", weights(lambda w: {n: v for n, v in w.items() if "down.bias" not in n}), ("down.bias",)),
    Mistake("a weight too many", weights(lambda w: {**w, "odd": torch.ones(1)}), ("no place for", "odd")),
    Mistake("a wrong shape", weights(lambda w: {**w, _UP: w[_UP][:3].clone()}), ("other shapes for", _UP)),
    Mistake("nan", weights(set_first(float("nan"))), (_UP, "not finite", "earlier checkpoint")),
    Mistake("infinite", weights(set_first(float("inf"))), (_UP, "not finite")),
    Mistake("integers", weights(lambda w: {n: v.to(torch.int8) for n, v in w.items()}), ("I8", "float32")),
    Mistake("safetensors cut", broken(cut), ("X/model.safetensors is damaged", "fetch it again")),
    Mistake("safetensors empty", written("model.safetensors", b""), ("X/model.safetensors is damaged",)),
    Mistake("safetensors of garbage", written("model.safetensors", b"?" * 999), ("X/model.safetensors is damaged",)),
    Mistake("no weights", without("model.safetensors"), ("X has no weights", "model.safetensors is missing")),
    Mistake("a pickle only", broken(only_pickle), ("pytorch_model.bin", "a pickle", "save them as safetensors")),
    Mistake("a shard lost", broken(lost_shard), ("X lacks model-00002-of-00002.safetensors",)),
    Mistake("an index that is no JSON", written("model.safetensors.index.json", b"{"), ("index.json is not valid",)),
    Mistake("no config", without("config.json"), ("no model in X", "config.json")),
    Mistake("config {}", written("config.json", b"{}"), ("X is not a Mutua model", "model_type None")),
    Mistake("config a list", written("config.json", b"[]"), ("X/config.json holds list",)),
    Mistake("config no JSON", written("config.json", b'{"a":'), ("X/config.json is not valid JSON",)),
    Mistake("config not UTF-8", written("config.json", b"\xff\xfe"), ("X/config.json is not valid JSON",)),
    Mistake("another model's config", config(model_type="llama"), ("X is not a Mutua model", "'llama'")),
    Mistake("no text_config", config(text_config=None), ("X/config.json: text_config is missing",)),
    Mistake("no vision_config", config(vision_config=None), ("X/config.json: vision_config is missing",)),
    Mistake("connector: qformer", config(connector="qformer"), ("X/config.json", "'qformer'", "resampler or mlp")),
    Mistake("an unknown policy", config(attention_policy="mmma"), ("'mmma'", "use one of causal, mma")),
    Mistake("-1 layers", config("text_config", num_hidden_layers=-1), ("text_config.num_hidden_layers is -1",)),
    Mistake("0 heads", config("text_config", num_attention_heads=0), ("num_attention_heads is 0", "at least 1")),
    Mistake("3 heads", config("text_config", num_attention_heads=3), ("X/config.json", "multiple", "heads (3)")),
    Mistake("a width in quotes", config("text_config", hidden_size="32"), ("'hidden_size' expected int",)),
    Mistake("a width of 400,000", config("text_config", hidden_size=400_000), ("other shapes for",)),
    Mistake("patches of 0 pixels", config("vision_config", patch_size=0), ("vision_config.patch_size is 0",)),
    Mistake("an unknown text type", config("text_config", model_type="foo"), ("X/config.json", "foo")),
    Mistake("a text type without text", config("text_config", model_type="vit"), ("X/config.json",)),
    Mistake("no such hidden state", config(vision_feature_layer=9), ("vision_feature_layer 9", "1 layers")),
    Mistake("a vocabulary too small", config("text_config", vocab_size=10), ("vocab_size is 10", "tokenizer has ids")),
    Mistake("another placeholder", config(image_token_id=7), ("placeholder is 1 by its processor and 7 by",)),
    Mistake("no tokenizer", without("tokenizer.json"), ("X lacks tokenizer.json",)),
    Mistake("no tokenizer config", without("tokenizer_config.json"), ("X lacks tokenizer_config.json",)),
    Mistake("no processor config", without("processor_config.json"), ("X lacks processor_config.json",)),
    Mistake("tokenizer {}", written("tokenizer.json", b"{}"), ("processor", "tokenizer.json", "is damaged")),
    Mistake("tokenizer of garbage", written("tokenizer.json", b"\0"), ("X/tokenizer.json is not valid JSON",)),
    Mistake("processor {}", written("processor_config.json", b"{}"), ("processor_config.json", "is damaged")),
    Mistake("generation config of garbage", written("generation_config.json", b"["), ("X/generation_config.json",)),
    Mistake("no chat template", without("chat_template.jinja"), ("no chat template to render with",)),
    Mistake("a template that does not end", written("chat_template.jinja", b"{% if"), ("chat template cannot render",)),
]


def adapter(base: str | None) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        (place / "A").mkdir()
        (place / "A" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        return mutua("ask", "X/ok.png", "is it red?", "-m", "A")

    return do


def run_folder(place: Path) -> Any:
    (place / "run").mkdir()
    (place / "X").rename(place / "run" / "model")
    return mutua("eval", "-m", "run", "--limit", "1")


def unfinished(place: Path) -> Any:
    (place / "run" / "checkpoints").mkdir(parents=True)
    return mutua("leakage", "run")


NAMES = [
    Mistake("a run, not its model", run_folder, ("no model in run", "did you mean run/model?")),
    Mistake("a run that is not finished", unfinished, ("no model in run", "not finished", "mutua train")),
    Mistake("a slip in the name", lambda _: library.load("./Xx"), ("no model at ./Xx", "did you mean X?")),
    Mistake("a path that is not there", lambda _: library.load("no/such/folder"), ("no model at no/such/folder",)),
    Mistake("a hub id without a network", lambda _: library.load("some/model"), ("some/model", "from the hub")),
    Mistake("an empty name", lambda _: library.load(""), ("no model",)),
    Mistake("a file", lambda _: library.load("X/config.json"), ("X/config.json is a file", "name the folder")),
    Mistake("a number", lambda _: library.load(3), ("named by a folder or a hub id, not by 3",)),  # type: ignore[arg-type]
    Mistake("a dtype that is none", lambda _: library.load("X", dtype="int8"), ("no dtype 'int8'", "bfloat16")),
    Mistake(
        "a backend that would drop the mask",
        lambda _: library.load("X", attn_implementation="flash_attention_2"),
        ("'flash_attention_2' cannot apply a look-ahead mask",),
    ),
    Mistake("an unknown policy", lambda _: library.load("X", policy="mmma"), ("'mmma'", "use one of")),
    Mistake("adapters of no base", adapter(None), ("A/adapter_config.json names no base_model_name_or_path",)),
    Mistake("adapters of a base that is gone", adapter("gone/base"), ("A: its adapters were trained in gone/base",)),
    Mistake("adapters without weights", adapter("X"), ("A: ", "do not fit their base model, or are damaged")),
]


def long_question(place: Path) -> Any:
    return mutua("ask", "X/ok.png", "is it red? " * 60, "-m", "X")


def many_pictures(place: Path) -> Any:
    return mutua("ask", *["X/ok.png"] * 12, "is it red?", "-m", "X")


def forward_of(tokens: int) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        model, _ = library.load("X")
        return model(input_ids=torch.full((1, tokens), 9))

    return do


def inputs_of_a_chat() -> tuple[Any, dict[str, Tensor]]:
    model, processor = library.load("X")
    inputs = processor.apply_chat_template(
        [user(picture(1), "is it red?")], tokenize=True, return_dict=True, return_tensors="pt"
    )
    return model, dict(inputs)


def changed(**change: Callable[[Tensor], Tensor]) -> Callable[[Path], Any]:
    def do(place: Path) -> Any:
        model, inputs = inputs_of_a_chat()
        return model(**inputs | {name: do_it(inputs[name]) for name, do_it in change.items()})

    return do


def cut_prefill(place: Path) -> Any:
    model, inputs = inputs_of_a_chat()
    first = {name: inputs[name][:, :20] for name in ("input_ids", "token_type_ids", "attention_mask")}
    cache = model(**first, pixel_values=inputs["pixel_values"], use_cache=True).past_key_values
    rest = {name: inputs[name][:, 20:] for name in ("input_ids", "token_type_ids")}
    return model(**rest, attention_mask=inputs["attention_mask"], past_key_values=cache)


USES = [
    Mistake("a question too long", long_question, ("tokens, images included", "built for texts of 192")),
    Mistake("too many pictures", many_pictures, ("tokens, images included", "fewer")),
    Mistake("a forward beyond the positions", forward_of(193), ("the text has 193 tokens", "built for 192")),
    Mistake("a reply that is cut", lambda _: ask("--max-new-tokens", 1), ("cut after 1 tokens", "--max-new"), True),
    Mistake(
        "a reply that does not fit",
        lambda _: library.ask(*library.load("X"), "X/ok.png", "is it red?", max_new_tokens=999),
        ("not 999", "built for texts of 192"),
        goes_on=True,
    ),
    Mistake("a mask too short", changed(attention_mask=lambda m: m[:, :-3]), ("attention_mask has shape", "of shape")),
    Mistake("a mask of two rows", changed(attention_mask=lambda m: m.repeat(2, 1)), ("attention_mask has shape",)),
    Mistake("a mask of four axes", changed(attention_mask=lambda m: m[None, None]), ("pass a (batch, tokens) mask",)),
    Mistake("codes too short", changed(token_type_ids=lambda c: c[:, 1:]), ("token_type_ids has shape",)),
    Mistake("codes of a tokenizer", changed(token_type_ids=torch.zeros_like), ("hold", "token_type_ids")),
    Mistake(
        "pictures too large",
        changed(pixel_values=lambda p: p.repeat(1, 1, 2, 2)),
        ("pixel_values has shape (1, 3, 64, 64)", "(images, 3, 32, 32)"),
    ),
    Mistake("two pictures for one place", changed(pixel_values=lambda p: p.repeat(2, 1, 1, 1)), ("2 images give 32",)),
    Mistake("a prefill cut by hand", cut_prefill, ("begins inside prompt block 0",)),
]


@rows(FOLDERS)
def test_damaged_folders(mistake, place):
    check(mistake, place)


@rows(NAMES)
def test_names_and_options(mistake, place):
    check(mistake, place)


@rows(USES)
def test_more_than_the_model_can(mistake, place):
    check(mistake, place)


def test_the_model_as_it_was_answers(place):
    assert ask("--max-new-tokens", 2).exit_code == 0


def test_json_tells_how_the_answer_ended(place):
    record = json.loads(ask("--json", "--max-new-tokens", 1).stdout)
    assert (record["finish_reason"], record["tokens"]) == ("length", 1)


def test_weights_that_turn_nan_later_prove_nothing(place):
    model, processor = library.load("X")
    with torch.no_grad():
        model.model.connector.up.weight[0, 0] = float("nan")
    proof = prove(model, processor, conversations=1)
    assert not proof.holds
    assert {finding.verdict for finding in proof.findings} == {"not finite"}
