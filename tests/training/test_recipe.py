from pathlib import Path

import pytest

from mutua.models.model_folder import PACKAGED
from mutua.training import Recipe, RecipeError, dump_recipe, load_recipe
from mutua.training.model_settings import FolderModel, PartsModel, PresetModel, TinyModel
from mutua.training.recipe import Seeds
from mutua.training.recipe_table import recipe_table

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_defaults_overrides_and_the_way_back(tmp_path: Path, recipe_in) -> None:
    recipe = recipe_in(tmp_path, "train.learning_rate=2e-4", "data.train.0.weight=5", "model.text.num_hidden_layers=2")
    assert (recipe.train.learning_rate, recipe.data.train[0].weight) == (2e-4, 5.0)
    assert recipe.model.text["num_hidden_layers"] == 2
    assert (recipe.train.clip, recipe.train.betas) == (1.0, (0.9, 0.98))
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_one_seed_or_three(tmp_path: Path, recipe_in) -> None:
    recipe = recipe_in(tmp_path, "seed={weights: 1, order: 2}")
    assert recipe.seeds == recipe.seed == Seeds(weights=1, order=2, dropout=0)
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert recipe_in(tmp_path).seeds == Seeds(weights=3, order=3, dropout=3)
    assert recipe_in(tmp_path, "seed={weights: 3, order: 3, dropout: 3}") == recipe_in(tmp_path)


def test_adapters_are_asked_for_by_their_section(tmp_path: Path, recipe_in) -> None:
    assert recipe_in(tmp_path).train.lora is None
    lora = recipe_in(tmp_path, "train.lora={}").train.lora
    assert lora.model_dump() == {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": ("model.language_model.*",)}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=many", "train.steps: got 'many', expected an integer"),
        ("train.steps=2.5", "train.steps: got 2.5, expected an integer"),
        ("train.steps=true", "train.steps: got True, expected an integer"),
        ("train.steps=0", "train.steps: got 0, expected a number of at least 1"),
        ("train.learning_rate=fast", "train.learning_rate: got 'fast', expected a number"),
        ("train.floor=1.5", "train.floor: got 1.5, expected a number of at most 1"),
        ("train.betas=[0.9]", "train.betas.1: is missing"),
        ("train.betas=[0.9, 1.0]", "train.betas.1: got 1.0, expected a number below 1"),
        ("train.precision=fp16", "train.precision: got 'fp16', expected 'auto', 'fp32' or 'bf16'"),
        ("train.gradient_checkpointing=1", "train.gradient_checkpointing: got 1, expected true or false"),
        ("train.freeze=model", "train.freeze: got 'model', expected a list"),
        ("train.lora.rank=0", "train.lora.rank: got 0, expected a number of at least 1"),
        (
            "train.lora.ranks=8",
            "train.lora.ranks: unknown key; did you mean 'rank'? allowed: rank, alpha, dropout, targ",
        ),
        ("train.lora.dropout=1.0", "train.lora.dropout: got 1.0, expected a number below 1"),
        ("train.lora.targets=[]", "train.lora.targets: got [], expected at least 1 entries"),
        ("train.lora=true", "train.lora: got True, expected keys and values"),
        ("train.stepz=3", "train.stepz: unknown key; did you mean 'steps'? allowed: steps, batch_size,"),
        ("trian.steps=3", "trian: unknown key; did you mean 'train'? allowed: name, seed, output, model, data, train"),
        ("train.micro_batch_size=8", "train: micro_batch_size 8 is above batch_size 4"),
        ("train.warmup_steps=9", "train: warmup_steps 9 must be below steps 9"),
        ("seed=many", "seed: got 'many', expected an integer"),
        ("seed={weights: 1, order: -2}", "seed.order: got -2, expected a number of at least 0"),
        ("seed={weigths: 1}", "seed.weigths: unknown key; did you mean 'weights'? allowed: weights, order, dropout"),
        (
            "data.train.0.flip=0.5",
            "data.train.0: flip 0.5: scenes lists objects from left to right in some answers",
        ),
        ("data.order=image", "data.order: got 'image', expected 'image-first', 'text-first' or 'both'"),
        ("evaluate.order=both", "evaluate.order: got 'both', expected 'image-first' or 'text-first'"),
        ("train=3", "train: got 3, expected keys and values"),
        ("name=", "name: got None, expected a text"),
        ("model.preset=huge", "model.preset: no preset 'huge'; allowed: aki-4b, "),
        ("model=3", "model: got 3, expected keys and values"),
        (
            "model.presett=tiny",
            "model.presett: unknown key; did you mean 'preset'? allowed: preset, vision, text, conn",
        ),
        ("model={path: here, pth: there}", "model.pth: unknown key; did you mean 'path'? allowed: path, attention_pol"),
        ("model.path=somewhere", "model: give exactly one of preset and path"),
        ("model={vision: a}", "model: give exactly one of preset and path, or vision and language"),
        ("model={preset: tiny, vision: 3}", "model.vision: got 3, expected a text or keys and values"),
        (
            "model.language=somewhere",
            "model: preset tiny has its own language model (text has its type and sizes), tokenizer",
        ),
        (
            "model.tokenizer=somewhere",
            "model: preset tiny has its own language model (text has its type and sizes), tokenizer",
        ),
        (
            "model.text.model_type=lama",
            "model.text: no language model of model_type 'lama' in Transformers; take e.g. ",
        ),
        ("model.text.model_type=[llama]", "model.text: no language model of model_type ['llama'] in Transformers; "),
        ("model.text={model_type: phi3, layers: 3}", "model.text: no key of Phi3Config 'layers'; allowed: "),
        ("model={preset: aki-4b, text: {hidden_size: 8}}", "model: text is for the sizes of preset tiny"),
        ("model={vision: a, language: {hidden_size: 8}}", "model: language is a config without a model_type that"),
        ("model.connector=qformer", "model.connector: no connector 'qformer'; allowed: mlp, resampler"),
        ("model.connector={type: mlp, latents: 3}", "model.connector: no size 'latents' of the connector mlp"),
        ("model.attention_policy=both", "model.attention_policy: no attention policy 'both'; allowed: causal, "),
        ("model.vision.depth=3", "model.vision: no key of SiglipVisionConfig 'depth'; allowed: "),
        ("data.train=[]", "data.train: got [], expected at least 1 entries"),
        ("data.train.0.weight=0", "data.train.0.weight: got 0, expected a number above 0"),
        ("data.train.0.source={}", "data.train.0.source: needs a `type`: scenes, grid, easy-vqa, jsonl"),
        ("data.train.0.source.type=coco", "data.train.0.source: got "),
        ("data.train.0.source.split=dev", "data.train.0.source.split: got 'dev', expected 'train' or 'test'"),
        ("data.train.0.source.sized=3", "data.train.0.source.sized: unknown key; did you mean 'size'? allowed: type,"),
        ("evaluate.sources.scenes.split=dev", "evaluate.sources.scenes.split: got 'dev', expected 'train' or 'test'"),
        ("evaluate.sources.scenes.siez=1", "evaluate.sources.scenes.siez: unknown key; did you mean 'size'? allowed:"),
    ],
)
def test_every_mistake_names_file_key_value_and_remedy(tmp_path: Path, recipe_in, override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe_in(tmp_path, override)
    assert str(error.value).startswith(f"{tmp_path / 'small.yaml'}: {expected}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps", "write it as key.inside=value"),
        ("data.train.7.weight=1", "'7' does not lead on, the recipe has a list of 2 there"),
        ("train.steps.more=1", "'more' does not lead on, the recipe has 9 there"),
        ("train.steps=[1", "--set train.steps=[1: not YAML"),
    ],
)
def test_an_override_that_leads_nowhere(tmp_path: Path, recipe_in, override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=r"--set .*") as error:
        recipe_in(tmp_path, override)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("{preset: tiny}", TinyModel),
        ("{preset: tiny, path: null, vision: null, language: null, tokenizer: null, text: {}}", TinyModel),
        ("{preset: null, path: here, vision: {}, language: null, connector: null, text: {}}", FolderModel),
        ("{preset: smollm2-135m, language: somewhere}", PresetModel),
        ("{vision: {model_type: dinov2}, language: a.gguf, tokenizer: here}", PartsModel),
    ],
)
def test_the_kinds_of_origin(tmp_path: Path, recipe_in, model: str, kind: type) -> None:
    """Also as the library once wrote them, every key of every kind, with null where there is none."""
    recipe = recipe_in(tmp_path, f"model={model}")
    assert type(recipe.model) is kind
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe == Recipe.model_validate(dict(recipe))


@pytest.mark.parametrize("path", [PACKAGED / "recipe.yaml", *sorted((DOCS.parents[1] / "recipes").rglob("*.yaml"))])
def test_the_recipes_of_this_repository(path: Path) -> None:
    assert load_recipe(path).model


def test_a_path_takes_no_sizes(tmp_path: Path, recipe_in) -> None:
    with pytest.raises(RecipeError, match="a model from a path has its own"):
        recipe_in(tmp_path, "model={path: here, connector: mlp}")


def test_all_mistakes_are_told_at_once(tmp_path: Path, recipe_in) -> None:
    with pytest.raises(RecipeError) as error:
        recipe_in(tmp_path, "train.steps=a", "train.batch_size=b")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a: [", "not YAML"), ("", "holds no keys"), ("- a", "holds no keys"), ("name: x", "output: is missing")],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=expected):
        load_recipe(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_recipe_that_a_wheel_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mutua.training.recipe_file._PACKAGE", tmp_path / "mutua")
    monkeypatch.chdir(tmp_path)
    shipped = tmp_path / "mutua/recipes/aki-4b/sft.yaml"
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    with pytest.raises(RecipeError, match=f"^recipes/aki-4b/sft.yaml: .*; the package has it as {shipped}$"):
        load_recipe("recipes/aki-4b/sft.yaml")
    with pytest.raises(RecipeError, match=r"No such file or directory$"):
        load_recipe("recipes/aki-4b/none.yaml")


def test_the_documentation_lists_every_key() -> None:
    assert recipe_table() in DOCS.read_text(encoding="utf-8"), "run python -m mutua.training.recipe_table"
