"""A model of someone else's, unlocked, by LoRA or whole: the same loop, a result that is loaded and unlocked again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from training_runs import at_step, expect_equal, expect_resumed

from mutua.data.collate import encode
from mutua.evaluation import open_source
from mutua.training import Recipe, TrainingError, load_recipe, train
from mutua.training.batches import batches, open_mixture
from mutua.training.build import model_to_train
from mutua.training.optimizer import build_optimizer
from mutua.training.recipe_file import RecipeError
from mutua.training.step import Stepper
from mutua.unlocking import is_unlocked, load_foreign, policy_of
from mutua.world import World

RECIPE = """
name: other
output: {output}
model: {{path: {path}, unlock: mma}}
data: {{train: [{{source: {{type: scenes, split: train, size: 50}}}}]}}
train: {{steps: 4, batch_size: 3, micro_batch_size: 2, learning_rate: 1e-3, weight_decay: 0.0, workers: 0, log_every: 1,
         checkpoint_every: 2, freeze: ["*"], loggers: [], lora: {{rank: 4, alpha: 8, dropout: 0.1, targets: ["*"]}}}}
evaluate: {{sources: {{scenes: {{type: scenes, split: test, size: 20}}}}, limit: 2, max_new_tokens: 2}}
"""


@pytest.fixture(scope="module")
def other_in(saved_llava: Path) -> Callable[..., Recipe]:
    def make(folder: Path, *overrides: str) -> Recipe:
        path = folder / "other.yaml"
        path.write_text(RECIPE.format(output=folder / "run", path=saved_llava), encoding="utf-8")
        return load_recipe(path, overrides)

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, other_in: Callable[..., Recipe]) -> Path:
    """A whole run."""
    folder = tmp_path_factory.mktemp("whole")
    console = Console(file=(folder / "told.txt").open("w"), width=200)
    train(other_in(folder), console)
    console.file.flush()
    return folder / "run"


def test_what_it_says(finished: Path) -> None:
    told = (finished.parent / "told.txt").read_text()
    assert "LoRA of rank 4" in told
    assert "policy mma" in told


def test_the_result_is_loaded_and_unlocked_again(finished: Path, saved_llava: Path) -> None:
    model, _ = load_foreign(finished / "model", device="cpu")
    assert is_unlocked(model)
    assert policy_of(model) == "mma"
    before, _ = load_foreign(saved_llava, device="cpu")
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert changed
    assert all("language_model.layers" in name for name in changed), changed


WHOLE = ("train.lora=null", "train.freeze=[model.vision_tower.*]")


@pytest.fixture(scope="module")
def trained_whole(tmp_path_factory: pytest.TempPathFactory, other_in: Callable[..., Recipe]) -> Path:
    """A run without adapters."""
    folder = tmp_path_factory.mktemp("no-adapters")
    train(other_in(folder, *WHOLE), Console(quiet=True))
    return folder / "run"


def test_without_adapters_all_that_is_not_frozen_is_trained(trained_whole: Path, saved_llava: Path) -> None:
    model, _ = load_foreign(trained_whole / "model", device="cpu")
    assert policy_of(model) == "mma"
    before, _ = load_foreign(saved_llava, device="cpu")
    same = {name for name, p in model.named_parameters() if torch.equal(p, before.get_parameter(name))}
    assert same == {name for name, _ in model.named_parameters() if name.startswith("model.vision_tower.")}
    assert not (trained_whole / "adapter").exists()


@pytest.mark.parametrize("in_background", [False, True])
def test_without_adapters_stopped_and_gone_on_with_it_is_the_same_run(
    tmp_path: Path,
    other_in: Callable[..., Recipe],
    trained_whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    console: Console,
    in_background: bool,
) -> None:
    recipe = other_in(tmp_path, *WHOLE, f"train.async_checkpoints={str(in_background).lower()}")
    at_step(monkeypatch, 1, lambda _: signal.raise_signal(signal.SIGINT))
    assert train(recipe, console).interrupted
    assert train(recipe, console).step == 4
    expect_resumed(console)
    expect_equal(tmp_path / "run", trained_whole)


def test_adapters_are_peft_s(finished: Path, saved_llava: Path) -> None:
    from peft import PeftModel

    merged, _ = load_foreign(finished / "model", device="cpu")
    base, processor = load_foreign(saved_llava, "mma", device="cpu")
    adapted = PeftModel.from_pretrained(base, finished / "adapter").eval()
    batch = encode([open_source("scenes")[0]], processor)
    with torch.no_grad():
        found, expected = adapted(**batch).logits, merged(**batch).logits
    assert torch.allclose(found, expected, atol=1e-5)


def test_stopped_and_gone_on_with_it_is_the_same_run(
    tmp_path: Path, other_in: Callable[..., Recipe], finished: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    at_step(monkeypatch, 1, lambda _: signal.raise_signal(signal.SIGINT))
    assert train(other_in(tmp_path), console).interrupted
    assert train(other_in(tmp_path), console).step == 4
    expect_resumed(console)
    expect_equal(tmp_path / "run", finished)
    adapters = [load_file(run / "adapter/adapter_model.safetensors") for run in (tmp_path / "run", finished)]
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())


def test_an_evaluation_of_a_model_that_turned_nan_ends_the_run(
    tmp_path: Path, other_in: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    def poison(stepper: Stepper) -> None:
        with torch.no_grad():
            next(p for p in stepper.model.parameters() if p.requires_grad).fill_(float("nan"))

    at_step(monkeypatch, 1, poison)
    with pytest.raises(TrainingError, match="step 2, evaluating scenes: the model computes numbers that are not"):
        train(other_in(tmp_path, "evaluate.every=2", "train.checkpoint_every=4"), console)


def test_the_loss_is_the_models_own(tmp_path: Path, other_in: Callable[..., Recipe]) -> None:
    """Against the mean that Transformers computes of the same labels, all samples of a step in one batch."""
    recipe = other_in(tmp_path, "train.precision=fp32", "train.lora.dropout=0.0")
    torch.manual_seed(0)
    mixture = open_mixture(recipe)
    model, processor, _ = model_to_train(recipe, mixture, None)
    stepper = Stepper(model, build_optimizer(model, recipe.train), recipe.train, World(device=torch.device("cpu")))
    batch = next(batches(mixture, processor, recipe, 0))
    loss, correct = stepper.backward(batch)
    samples = mixture.read(mixture.draws(0), ())
    whole = encode(samples, processor)
    with torch.no_grad():
        out = model(**whole)
    assert float(loss) == pytest.approx(float(out.loss), rel=1e-5)
    right = (out.logits[:, :-1].argmax(-1) == whole["labels"][:, 1:]).sum()
    assert int(correct) == int(right)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.packing={tokens: 200}", "data.packing is for Mutua's own models"),
        ("train.cache_vision_mb=1", "train.cache_vision_mb is for Mutua's own models"),
        ("model.unlock=x", "no attention policy 'x'"),
        ("model.attention_policy=mma", "attention_policy"),
    ],
)
def test_what_an_unlocked_model_does_not_take(
    tmp_path: Path, other_in: Callable[..., Recipe], change: str, said: str
) -> None:
    with pytest.raises(RecipeError) as error:
        other_in(tmp_path, change)
    assert said in str(error.value)


def test_each_kind_of_model_names_the_other(tmp_path: Path, other_in: Callable[..., Recipe], saved_llava: Path) -> None:
    from mutua.api import PACKAGED

    with pytest.raises(ValueError, match=r"model\.attention_policy is for one of Mutua's own"):
        train(other_in(tmp_path, f"model.path={PACKAGED}"), Console(quiet=True))
    with pytest.raises(ValueError, match=r"model\.unlock, e\.g\. mma"):
        train(other_in(tmp_path, f"model={{path: {saved_llava}}}"), Console(quiet=True))
