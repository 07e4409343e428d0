"""Models that are damaged, incomplete, misnamed or asked for more than they can: what the user reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged_weights import Weights, change_weights, only_pickle
from safetensors.torch import load_file, save_file
from tiny_model import make_model, picture, save_model, user
from torch import Tensor
from transformers import AutoModelForImageTextToText
from what_users_read import Mistake, check, mutua, rows

import mutua as library
from mutua.cli import app  # noqa: F401 (imported before the pictures are drawn, or the first row would pay for it)
from mutua.inspection.leakage import prove

_UP = "model.connector.up.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with a model as it should be."""
    folder = save_model(tmp_path_factory.mktemp("whole"), make_model("mma", max_position_embeddings=192))
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
    return broken(change_weights(change))


def config(section: str = "", *, file: str = "config.json", **values: Any) -> Callable[[Path], Any]:
    """Values in config.json, or another file; `None` takes a key out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        target = content[section] if section else content
        for key, value in values.items():
            target[key] = value
            if value is None:
                del target[key]
        (folder / file).write_text(json.dumps(content))

    return broken(change)


def pictures(**values: Any) -> Callable[[Path], Any]:
    """How the processor prepares them."""
    return config("image_processor", file="processor_config.json", **values)


def written(name: str, content: bytes) -> Callable[[Path], Any]:
    return broken(lambda folder: (folder / name).write_bytes(content))


def without(name: str) -> Callable[[Path], Any]:
    return broken(lambda folder: (folder / name).unlink())


def set_first(value: float) -> Callable[[Weights], Weights]:
    def change(given: Weights) -> Weights:
        given[_UP].view(-1)[0] = value
        return given

    return change


def index(content: str, keeps_file: bool = False) -> Callable[[Path], Any]:
    """An index in the place of the file of all weights, or beside it."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(content)
        if not keeps_file:
            (folder / "model.safetensors").unlink()

    return broken(change)


SHARDED = json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}})


def shards(second: Callable[[Weights], Weights] = dict, **index: Any) -> Callable[[Path], Any]:
    """The model in two files, the second one and the index changed."""

    def change(folder: Path) -> None:
        every = load_file(folder / "model.safetensors")
        names = list(every)
        parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
        for file, part in parts.items():
            kept = {name: every[name] for name in part}
            save_file(second(every) if file[0] == "b" else kept, folder / file, metadata={"format": "pt"})
        places = {name: file for file, part in parts.items() for name in part}
        content = {"metadata": {}, "weight_map": places} | index
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        (folder / "model.safetensors").unlink()

    return broken(change)


def fifo(name: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return broken(change)


def twice(folder: Path) -> None:
    content = (folder / "config.json").read_text()
    (folder / "config.json").write_text(content.replace("{", '{"attention_policy": "causal",', 1))


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
    Mistake("no weights", without("model.safetensors"), ("X has no weights", "no file model.safetensors")),
    Mistake("a pickle only", broken(only_pickle), ("pytorch_model.bin", "a pickle", "save them as safetensors")),
    Mistake("a shard lost", index(SHARDED), ("X lacks model-00002-of-00002.safetensors",)),
    Mistake("weights in two places", index(SHARDED, True), ("X has weights in model.safetensors, and", "Remove what")),
    Mistake("a weight in two files", shards(), ("X/b.safetensors: ", "is in another file of this model, too")),
    Mistake("an index of no files", shards(weight_map=[1]), ("index.json has no weight_map", "fetch it again")),
    Mistake("an index of numbers", shards(weight_map={"a": 1}), ("index.json has no weight_map",)),
    Mistake("an index without its head", shards(metadata=None), ("index.json has no metadata",)),
    Mistake("weights too large", weights(lambda w: {n: v * 1e30 for n, v in w.items()}), ("(nan)", "no answer")),
    Mistake("an index that is no JSON", index("{"), ("index.json is not valid",)),
    Mistake("no config", without("config.json"), ("no model in X", "config.json")),
    Mistake("config {}", written("config.json", b"{}"), ("X is not a Mutua model", "model_type None")),
    Mistake("config a list", written("config.json", b"[]"), ("X/config.json holds list",)),
    Mistake("config no JSON", written("config.json", b'{"a":'), ("X/config.json is not valid JSON",)),
    Mistake("config not UTF-8", written("config.json", b"\xff\xfe"), ("X/config.json is not valid JSON",)),
    Mistake("config too deep", written("config.json", b"[" * 99_999), ("X/config.json is not valid JSON",)),
    Mistake("a key twice in config", broken(twice), ("X/config.json", "'attention_policy' is there twice")),
    Mistake("a dtype that is none", config(dtype="float33"), ("X/config.json: dtype: ", "float33")),
    Mistake("integers as dtype", config(dtype="int8"), ("X: ", "int8", "not a floating-point dtype")),
    Mistake("half a layer", config(vision_feature_layer=1.5), ("X/config.json", "'vision_feature_layer' expected int")),
    Mistake("a switch in words", config(lm_head_bias="no"), ("X/config.json", "'lm_head_bias' expected bool")),
    Mistake(
        "an unknown activation", config("text_config", hidden_act="foo"), ("text_config.hidden_act: KeyError 'foo'",)
    ),
    Mistake(
        "100,000 layers", config("text_config", num_hidden_layers=100_000), ("num_hidden_layers is 100000", "has 4")
    ),
    Mistake("100,000 layers of a connector", config(resampler_depth=100_000), ("resampler_depth is 100000",)),
    Mistake("a norm of nothing", config("text_config", rms_norm_eps=-1.0), ("(nan)", "its config", "damaged")),
    Mistake("an unknown quantization", config(quantization_config={"quant_method": "x"}), ("quant_method", "'x'")),
    Mistake("a quantization of no kind", config(quantization_config={}), ("X/config.json", "no `quant_method`")),
    Mistake("another model's config", config(model_type="llama"), ("X is not a Mutua model", "'llama'")),
    Mistake("no text_config", config(text_config=None), ("X/config.json: text_config is missing",)),
    Mistake("no vision_config", config(vision_config=None), ("X/config.json: vision_config is missing",)),
    Mistake(
        "connector: qformer",
        config(connector="qformer"),
        ("X/config.json", "'connector' expected one of ('resampler', 'mlp')", "qformer"),
    ),
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
    Mistake("no tokenizer", without("tokenizer.json"), ("X lacks the file tokenizer.json",)),
    Mistake("no tokenizer config", without("tokenizer_config.json"), ("X lacks the file tokenizer_config.json",)),
    Mistake("no processor config", without("processor_config.json"), ("X lacks the file processor_config.json",)),
    Mistake("a tokenizer that never ends", fifo("tokenizer.json"), ("X lacks the file tokenizer.json",)),
    Mistake("no padding", config(file="tokenizer_config.json", pad_token=None), ("X: ", "padding token")),
    Mistake("a length in words", config(file="tokenizer_config.json", model_max_length="x"), ("X: ", "is damaged")),
    Mistake("another processor", config(file="processor_config.json", num_image_tokens="16"), ("is '16' by its",)),
    Mistake("pictures of another size", pictures(size={"height": 8, "width": 8}), ("(1, 3, 8, 8)", "(1, 3, 32, 32)")),
    Mistake("pictures of no size", pictures(do_resize=False), ("processor_config.json", "put size, do_resize")),
    Mistake("one side of pictures", pictures(size={"shortest_edge": 32}), ("(1, 3, 32, 48)", "(1, 3, 32, 32)")),
    Mistake("pictures too large", pictures(size={"height": 10**7, "width": 10**7}), ("size is", "32 x 32 pixels")),
    Mistake("colours divided by 0", pictures(image_std=[0, 0, 0]), ("not finite", "image_std")),
    Mistake("colours times a word", pictures(rescale_factor="x"), ("X: ", "processor_config.json", "is damaged")),
    Mistake("one colour of three", pictures(image_mean=[0.5]), ("X: mean must have 3", "is damaged")),
    Mistake("tokenizer {}", written("tokenizer.json", b"{}"), ("processor", "tokenizer.json", "is damaged")),
    Mistake("tokenizer of garbage", written("tokenizer.json", b"\0"), ("X/tokenizer.json is not valid JSON",)),
    Mistake("processor {}", written("processor_config.json", b"{}"), ("processor_config.json", "is damaged")),
    Mistake("generation config of garbage", written("generation_config.json", b"["), ("X/generation_config.json",)),
    Mistake("an end that there is not", config(file="generation_config.json", eos_token_id=999), ("999", "from 0 to")),
    Mistake("an end in words", config(file="generation_config.json", eos_token_id="end"), ("'end'", "ends a reply")),
    Mistake("no end", config(file="generation_config.json", eos_token_id=None), ("eos_token_id", "is None")),
    Mistake("a template not UTF-8", written("chat_template.jinja", b"\xff"), ("X: ", "chat_template.jinja")),
    Mistake("no chat template", without("chat_template.jinja"), ("no chat template to render with",)),
    Mistake("a template that does not end", written("chat_template.jinja", b"{% if"), ("chat template cannot render",)),
]


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
    Mistake("an empty name", lambda _: library.load(""), ("the name of a model is empty", "folder or hub id")),
    Mistake("a file", lambda _: library.load("X/config.json"), ("X/config.json is a file", "name the folder")),
    Mistake("a number", lambda _: library.load(3), ("named by a folder or a hub id, not by 3",)),  # type: ignore[arg-type]
    Mistake("a dtype that is none", lambda _: library.load("X", dtype="int8"), ("no dtype 'int8'", "bfloat16")),
    Mistake(
        "a backend that would drop the mask",
        lambda _: library.load("X", attn_implementation="flash_attention_2"),
        ("'flash_attention_2' cannot apply a look-ahead mask",),
    ),
    Mistake("an unknown policy", lambda _: library.load("X", policy="mmma"), ("'mmma'", "use one of")),
    Mistake("a long name", lambda _: library.load("a" * 5000), ("no model at aaa", "File name too long")),
    Mistake("eight bits", lambda _: library.load("X", dtype="float8_e4m3fn"), ("no dtype 'float8_e4m3fn'", "float16")),
    Mistake("a backend by parts", lambda _: library.load("X", attn_implementation={}), ("{}", "use one of")),  # type: ignore[arg-type]
    Mistake("a list of policies", lambda _: library.load("X", policy=["mma"]), ("['mma']", "use one of")),  # type: ignore[arg-type]
    Mistake("a device that is none", lambda _: library.load("X", device="gpu"), ("no device 'gpu'", "cuda")),
    Mistake(
        "flash, by Transformers",
        lambda _: AutoModelForImageTextToText.from_pretrained("X", attn_implementation="flash_attention_2"),
        ("'flash_attention_2' cannot apply a look-ahead mask", "use one of"),
    ),
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


def generated(**options: Any) -> Any:
    model, inputs = inputs_of_a_chat()
    return model.generate(**inputs, **options)


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
    Mistake(
        "a text that does not fit",
        lambda _: generated(max_length=999, cache_implementation="static"),
        ("not 9", "built for texts of 192"),
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
