"""`mutua data check`, and foreign data in `mutua eval` and `mutua train`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from foreign_data import chat_table, llava_rows, turns, write_lines, write_llava, write_pictures
from native_sets import SETS
from PIL import Image
from tiny_model import save_model
from what_users_read import mutua


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def test_the_example_of_the_docs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(\[.*?)```", page, re.DOTALL)
    printed = re.search(r"```bash\nmutua (data check .*?)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert example is not None
    assert printed is not None
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/llava.json").write_text(example[1], encoding="utf-8")
    for name, size in (("cat", (640, 480)), ("bird", (320, 240))):
        Image.new("RGB", size).save(tmp_path / f"pets/{name}.png")
    monkeypatch.chdir(tmp_path)
    result = mutua(*printed[1].split())
    assert result.exit_code == 1
    assert result.stdout == printed[2]


def test_check_says_what_is_there(tmp_path):
    result = mutua("data", "check", write_llava(tmp_path))
    assert result.exit_code == 0, result.output
    assert "data.json: 3 samples" in result.stdout
    assert "replies 4; pictures: samples 1 with 0, 1 with 1, 1 with 3" in result.stdout
    assert "user: [picture 8 x 6] what colour is it?" in result.stdout
    assert "1 prompt without a picture" in result.stdout


def test_check_finds_what_a_run_would_skip(tmp_path, model):
    write_pictures(tmp_path)
    path = write_lines(
        tmp_path / "data.jsonl",
        {"image": "red.png", "conversations": turns("what?", "that")},
        {"image": "none.png", "conversations": turns("what?", "that")},
        {"image": "red.png", "conversations": turns("<|end|>?", "that")},
        {"image": "red.png", "conversations": turns("what? " * 400, "that")},
    )
    result = mutua("data", "check", path, "-m", model)
    assert result.exit_code == 1
    shown = " ".join(result.stdout.split())
    assert f"1 missing or broken picture {path}:2: file not found: {tmp_path / 'none.png'}" in shown
    assert f"1 control token in a text {path}:3: <|end|> in '<|end|>?'" in shown
    assert "tokens: median" in shown
    assert "nothing to complain of" not in shown


def test_check_spells_what_a_terminal_would_obey(tmp_path):
    clear, copy = "\x1b[2J", "\x1b]52;c;bWluZQ==\x07"
    path = write_lines(
        tmp_path / f"data{clear}.jsonl", {"id": f"a{copy}", "conversations": turns(f"what{clear}?", "\x9bA")}
    )
    result = mutua("data", "check", path)
    for shown in (r"data\x1b[2J.jsonl: 1 samples", r"a\x1b]52;c;bWluZQ==\x07", r"what\x1b[2J?", r"\x9bA"):
        assert shown in result.stdout
    missing = mutua("data", "check", tmp_path / f"none{clear}.jsonl")
    assert r"none\x1b[2J.jsonl" in missing.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", result.output + missing.output)


def test_check_as_json(tmp_path):
    result = mutua("data", "check", write_llava(tmp_path), "--json")
    (report,) = json.loads(result.stdout)["sources"]
    assert (report["samples"], report["usable"], report["found"]) == (3, True, {"no picture": 1})


def test_check_draws_a_page(tmp_path):
    page = tmp_path / "page.html"
    assert mutua("data", "check", write_llava(tmp_path), "-o", page, "--show", 2).exit_code == 0
    assert page.read_text(encoding="utf-8").count("<img ") == 4


def test_check_with_a_folder_of_pictures(tmp_path):
    write_pictures(tmp_path / "pictures")
    (tmp_path / "data.json").write_text(json.dumps(llava_rows()))
    assert mutua("data", "check", tmp_path / "data.json").exit_code == 1
    assert mutua("data", "check", tmp_path / "data.json", "--images", tmp_path / "pictures").exit_code == 0


def test_check_of_a_recipe_goes_through_its_sources(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: mine\noutput: {tmp_path / 'run'}\nmodel: {{preset: tiny}}\n"
        f"data: {{train: [{{source: {{type: llava, path: '{write_llava(tmp_path)}'}}}}]}}\n"
        "train: {steps: 1, batch_size: 1, learning_rate: 1e-3}\n"
        "evaluate: {sources: {held out: {type: scenes, split: test, size: 7}}}\n"
    )
    result = mutua("data", "check", recipe)
    assert result.exit_code == 0, result.output
    assert f"data.train.0 (llava {tmp_path / 'data.json'}): 3 samples" in result.stdout
    assert "evaluate.sources.held out: 7 samples" in result.stdout


def recipe_of(folder: Path, *sources: str) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: mine\noutput: {folder / 'run'}\nmodel: {{preset: tiny}}\n"
        f"data: {{train: [{', '.join(f'{{source: {{{source}}}}}' for source in sources)}]}}\n"
        "train: {steps: 1, batch_size: 1, learning_rate: 1e-3}\n"
    )
    return recipe


def test_check_of_a_packed_recipe_knows_what_a_row_holds(tmp_path, model):
    recipe = recipe_of(tmp_path, "type: scenes, split: train, size: 3")
    recipe.write_text(recipe.read_text().replace("data: {", "data: {packing: {tokens: 20}, "))
    result = mutua("data", "check", recipe, "-m", model)
    assert result.exit_code == 1
    assert "3 too long" in result.stdout
    assert "tokens, and data.packing.tokens allows 20" in result.stdout


def test_check_of_a_recipe_on_the_papers_sources(tmp_path):
    paths = {kind: write(tmp_path / kind) for kind, write in SETS.items()}
    result = mutua(
        "data", "check", recipe_of(tmp_path, *(f"type: {kind}, path: {path}" for kind, path in paths.items()))
    )
    assert result.exit_code == 0, result.output
    for place, (kind, path) in enumerate(paths.items()):
        assert f"data.train.{place} ({kind} {path}): " in result.stdout
    assert "user: [picture 8 x 6] Answer the question using a single word or phrase. Is the sky dark?" in result.stdout
    assert "user: [picture 8 x 6]\n    assistant: The image shows a red van" in result.stdout


@pytest.mark.parametrize("kind", SETS)
def test_a_source_that_is_not_there_is_told_in_one_line_with_its_key(kind, tmp_path):
    recipe = recipe_of(tmp_path, "type: easy-vqa, split: test", f"type: {kind}, path: {tmp_path / 'none'}")
    for told in (mutua("data", "check", recipe), mutua("train", recipe)):
        assert told.exit_code == 1
        (line,) = " ".join(told.stderr.split()).replace(" data.train.1", "\ndata.train.1").splitlines()[1:]
        assert re.match(r"data\.train\.1.*: path: there is no file or folder ", line), told.stderr
    (tmp_path / "none").mkdir()
    told = mutua("data", "check", recipe)
    assert told.exit_code == 1
    assert re.search(r"data\.train\.1 .*: path: (in the folder )?\S+ ", " ".join(told.stderr.split()))


def test_ctrl_c_prints_what_was_found(tmp_path, monkeypatch):
    from mutua.data.readers import Llava

    def stop(self: Llava, index: int) -> None:
        raise KeyboardInterrupt

    path = write_llava(tmp_path)
    monkeypatch.setattr(Llava, "without_images", stop)
    result = mutua("data", "check", path)
    assert result.exit_code == 130
    assert "3 samples, 0 of them read" in result.stdout
    assert "interrupted" in result.stderr


def test_eval_on_foreign_data(tmp_path, model):
    assert mutua("eval", "-m", model, "-d", write_llava(tmp_path), "--json", tmp_path / "r.json").exit_code == 0
    (scores,) = json.loads((tmp_path / "r.json").read_text()).values()
    assert [record["expected"] for record in next(iter(scores.values()))["records"]] == [
        "it is red",
        "blue, green",
        "hällo",
    ]


def test_train_on_foreign_data_and_go_on(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    chat_table().to_parquet(str(tmp_path / "table.parquet"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: mine\noutput: {tmp_path / 'run'}\n"
        "model:\n"
        "  preset: tiny\n"
        "  vision: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}\n"
        "  text: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}\n"
        "data:\n"
        "  train:\n"
        f"    - source: {{type: llava, path: '{write_llava(tmp_path)}'}}\n"
        f"    - source: {{type: datasets, path: '{tmp_path / 'table.parquet'}'}}\n"
        "  tokenizer_texts: 8\n"
        "train: {steps: 2, batch_size: 4, learning_rate: 1e-3, workers: 1, checkpoint_every: 1}\n"
        f"evaluate: {{sources: {{mine: {{type: datasets, path: '{tmp_path / 'table.parquet'}'}}}}, limit: 1}}\n"
    )
    result = mutua("train", recipe)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run/quarantine.jsonl").exists() or not (tmp_path / "run/quarantine.jsonl").read_text()
    checkpoints = sorted((tmp_path / "run").glob("checkpoints/*/run.json"))
    sources = json.loads(checkpoints[-1].read_text())["sources"]
    assert [source["samples"] for source in sources] == [3, 4]


def test_train_on_the_papers_sources(tmp_path):
    recipe = recipe_of(tmp_path, *(f"type: {kind}, path: {write(tmp_path / kind)}" for kind, write in SETS.items()))
    small = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}"
    sizes = [f"model.vision={small}", f"model.text={small}", "data.tokenizer_texts=60", "train.workers=0"]
    sizes += [f"train.batch_size={2 * len(SETS)}"]
    result = mutua("train", recipe, *(word for size in sizes for word in ("--set", size)))
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run/quarantine.jsonl").exists() or not (tmp_path / "run/quarantine.jsonl").read_text()
