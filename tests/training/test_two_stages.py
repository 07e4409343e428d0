"""The paper's two stages from their own recipes, in small: tiny parts, small copies of its 13 sets, few steps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from native_sets import OCR_CAPTION, SETS, write_llava_instruct, write_refcoco, write_tar_shards
from rich.console import Console
from tiny_parts import text_tokenizer
from what_users_read import mutua as command

import mutua
from mutua.training import Recipe, load_recipe, train
from mutua.training.recipe_file import RecipeError
from mutua.training.schedule import learning_rate

ROOT = Path(__file__).parents[2]
STAGES = tuple(ROOT / "recipes/aki-4b" / f"{name}.yaml" for name in ("pretrain", "sft"))

SMALLER = ("train.batch_size=32", "train.steps=3", "train.warmup_steps=1", "train.workers=0", "train.log_every=1")
PARTS = (
    "model.vision={model_type: siglip_vision_model, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 64, image_size: 16, patch_size: 8}",
    "model.language={model_type: phi3, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, vocab_size: 304, "
    "num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 1024, sliding_window: null, "
    "bos_token_id: null, eos_token_id: 1, pad_token_id: null}",
    "model.connector={type: resampler, latents: 4, depth: 1, heads: 2, head_dim: 16}",
    "model.tokenizer=./tokenizer",
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every set where the recipes look for it, the one that commands run in."""
    monkeypatch.chdir(tmp_path)
    text_tokenizer().save_pretrained("tokenizer")
    for stage in STAGES:
        for weighted in load_recipe(stage).data.train:
            put(weighted.source)
    return tmp_path


def put(source) -> None:
    """Writes the set of a source: its files to the source's `path`, its pictures to `images`."""
    made, files = Path("made"), source.path.parent if source.path.suffix else source.path
    pictures = getattr(source, "images", None) or files
    if source.type == "llava":
        write_llava_instruct(made)
        pictures = pictures.parent  # of the paths in the file, without the folder
    elif source.type == "refcoco":
        write_refcoco(made, source.path.name)
    elif source.type == "blip3-ocr":
        write_tar_shards(made, OCR_CAPTION)
    else:
        SETS[source.type](made)
    for written in made.iterdir():
        to = pictures if written.is_dir() else files
        to.mkdir(parents=True, exist_ok=True)
        if written.is_dir():
            shutil.copytree(written, to / written.name, dirs_exist_ok=True)
        else:
            shutil.copy(written, to)
    shutil.rmtree(made)


@pytest.mark.parametrize(
    "overrides",
    [pytest.param((), id="rows", marks=pytest.mark.slow), pytest.param(("data.packing={tokens: 1024}",), id="packed")],
)
def test_both_stages_run_end_to_end(data: Path, overrides: tuple[str, ...]) -> None:
    first = load_recipe(STAGES[0], [*PARTS, *SMALLER, *overrides])
    second = load_recipe(STAGES[1], [*SMALLER, *overrides])
    for recipe in (first, second):
        train(recipe, Console(quiet=True))
        expect_whole(recipe)

    before, _ = mutua.load(first.output / "model")
    after, processor = mutua.load(second.output / "model")
    assert (before.config.attention_policy, after.config.attention_policy) == ("causal", "mma")
    expect_goes_on(before, after)

    picture = data / "data/coco/train2014/COCO_train2014_000000458752.jpg"
    inputs = processor.apply_chat_template(
        mutua.api.conversation(picture, "What is it?"), tokenize=True, return_dict=True, return_tensors="pt"
    )
    answered = after.generate(**inputs, max_new_tokens=5, min_new_tokens=1)
    assert answered.shape[1] > inputs["input_ids"].shape[1]


def test_the_check_finds_nothing_wrong_in_them(data: Path) -> None:
    for stage in STAGES:
        told = command("data", "check", stage, "--show", 0)
        assert told.exit_code == 0, told.output
        assert told.stdout.count("data.train.") == len(load_recipe(stage).data.train)


def expect_whole(recipe: Recipe) -> None:
    """The finished model has all that repeats it; every set was met, and every sample used."""
    folder = recipe.output / "model"
    assert load_recipe(folder / "recipe.yaml") == recipe
    run = json.loads((folder / "run.json").read_text())
    assert run["step"] == recipe.train.steps
    assert len(run["sources"]) == len(recipe.data.train)
    for source in run["sources"]:
        assert source["drawn"] > 0, source
        assert source["bad"] == source["too_long"] == source["cut"] == 0, source
    assert run["samples"] == recipe.train.steps * recipe.train.batch_size
    losses = [json.loads(line)["loss"] for line in (recipe.output / "log.jsonl").read_text().splitlines()]
    assert len(losses) == recipe.train.steps
    assert all(0 < loss < 10 for loss in losses)


def expect_goes_on(before: torch.nn.Module, after: torch.nn.Module) -> None:
    """The vision encoder is the same, and what was trained on is as near as a few small steps leave it."""
    moved = {name: (after.get_parameter(name) - weight).abs().max() for name, weight in before.named_parameters()}
    for name, distance in moved.items():
        assert distance < 1e-3, name
        assert (distance == 0) == name.startswith("model.vision_tower."), name


def test_the_connector_alone_and_then_the_language_model_too(data: Path) -> None:
    """As the comment of the recipe says."""
    connector, both = re.findall(r"^#   (mutua train .*?)$", STAGES[0].read_text().replace(" \\\n#      ", ""), re.M)
    _, *sets = re.split(r" --set ", connector)
    result = train(load_recipe(STAGES[0], [*PARTS, *SMALLER, *(one.strip('"') for one in sets)]), Console(quiet=True))
    before, _ = mutua.load(result.folder)
    _, *sets = re.split(r" --set ", both)
    result = train(load_recipe(STAGES[0], [*SMALLER, *(one.strip('"') for one in sets)]), Console(quiet=True))
    expect_goes_on(before, mutua.load(result.folder)[0])


def test_rates_and_samples_are_the_papers() -> None:
    for stage, last, samples in zip(STAGES, (1e-5, 1e-6), (10_000_000, 1_600_000), strict=True):
        settings = load_recipe(stage).train
        found = learning_rate(
            settings.steps - 1,
            peak=settings.learning_rate,
            steps=settings.steps,
            warmup_steps=settings.warmup_steps,
            floor=settings.floor,
        )
        assert found == pytest.approx(last)
        assert settings.steps * settings.batch_size == pytest.approx(samples, rel=1e-3)


def rows_of_the_page() -> dict[str, list[list[str]]]:
    """What docs/paper.md says is added to the two stages, by the name of the row."""
    page = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (as it is|`--set [^|]+`) \| (as it is|`--set [^|]+`) \|$", page, re.M)
    return {name: [re.findall(r"--set ([^ `]+)", cell) for cell in cells] for name, *cells in rows}


def test_every_row_of_the_page_is_two_runs() -> None:
    """Stage 2 starts where stage 1 ends, and no two runs write into one folder."""
    rows = rows_of_the_page()
    assert len(rows) == 6
    outputs = set()
    for name, sets in rows.items():
        first, second = (load_recipe(stage, some) for stage, some in zip(STAGES, sets, strict=True))
        assert second.model.path == first.output / "model", name
        outputs.add(second.output)
    assert len(outputs) == len(rows)


@pytest.mark.slow
def test_every_row_of_the_page_runs(data: Path) -> None:
    for sets in rows_of_the_page().values():
        for parts, stage, some in zip((PARTS, ()), STAGES, sets, strict=True):
            recipe = load_recipe(stage, [*some, *parts, *SMALLER])
            train(recipe, Console(quiet=True))
            expect_whole(recipe)


@pytest.mark.parametrize("order", ["both", "image-first", "text-first"])
def test_captions_alone_have_no_order(order: str) -> None:
    with pytest.raises(RecipeError, match=f"data: order '{order}' would change nothing: .* leave it out"):
        load_recipe(STAGES[0], [f"data.order={order}"])
    questions = "data.train.0.source={type: gqa, path: data/gqa}"
    assert load_recipe(STAGES[0], [f"data.order={order}", questions]).data.order == order


def test_what_is_missing_is_told_a_line_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in STAGES:
        recipe = load_recipe(stage)
        told = command("data", "check", stage)
        lines = told.stderr.removeprefix("error: ").splitlines()
        assert told.exit_code == 1
        for place, (line, weighted) in enumerate(zip(lines, recipe.data.train, strict=True)):
            source = weighted.source
            assert line.startswith(f"{stage}: data.train.{place} ({source.type} {source.path}): "), line
            assert re.search(r"there is no file or folder|no such file", line), line
            assert source.path.suffix or "; it is to hold " in line, line
    assert command("train", STAGES[0]).stderr.count("there is no file or folder data/") == 2
