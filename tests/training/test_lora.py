"""LoRA: what trains and what does not, merging, and runs that stop and go on."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_model import assistant, make_model, picture, user
from torch import Tensor
from training_runs import at_step, child, do_step, expect_equal, lines

import mutua
from mutua.models import MutuaForConditionalGeneration
from mutua.models.model_folder import ModelError
from mutua.training import CheckpointError, Recipe, train
from mutua.training.batches import StepBatch, batches, open_mixture
from mutua.training.build import build_model, model_to_train
from mutua.training.lora import Adapters
from mutua.training.optimizer import build_optimizer
from mutua.training.precision import recompute_activations
from mutua.training.recipe import LoraSettings
from mutua.training.step import Stepper
from mutua.world import World

LORA = ("train.lora={rank: 4, alpha: 8, dropout: 0.1}", "train.freeze=['model.vision_tower.*']")


def stepper_of(recipe: Recipe) -> tuple[Stepper, list[StepBatch]]:
    """With adapters that are not zero, so that every gradient is something."""
    torch.manual_seed(0)
    mixture = open_mixture(recipe)
    model, processor, _ = model_to_train(recipe, mixture, None)
    shake(model)
    optimizer = build_optimizer(model, recipe.train)
    return Stepper(model, optimizer, recipe.train, World()), list(batches(mixture, processor, recipe, 0))


def shake(model: MutuaForConditionalGeneration, also: str = "lora_") -> None:
    """Random values in the adapters, or in other parameters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if also in name:
                parameter.normal_(0, 0.1, generator=generator)


def gradients(stepper: Stepper, batch: StepBatch) -> dict[str, Tensor]:
    stepper.optimizer.zero_grad()
    torch.manual_seed(1)  # of dropout
    stepper.backward(batch)
    return {name: p.grad.clone() for name, p in stepper.model.named_parameters() if p.grad is not None}


@torch.no_grad()
def logits_of(model: torch.nn.Module, *many: dict[str, Tensor]) -> list[Tensor]:
    return [model.eval()(**inputs).logits for inputs in many]


@pytest.fixture
def chats(encode) -> list[dict[str, Tensor]]:
    """With a picture and without."""
    return [
        encode([user(picture(1), "what colour?"), assistant("red")]),
        encode([user("what colour?"), assistant("red")]),
    ]


# What trains


def test_adapters_start_at_the_model_itself(chats) -> None:
    model = make_model()
    expected = logits_of(model, *chats)
    Adapters(model, LoraSettings())
    assert type(model) is MutuaForConditionalGeneration
    for found, before in zip(logits_of(model, *chats), expected, strict=True):
        assert torch.equal(found, before)
    shake(model)
    assert (logits_of(model, *chats)[1] - expected[1]).abs().max() > 0.1


def test_gradients_reach_adapters_and_connector_and_nothing_else(tmp_path: Path, recipe_in) -> None:
    stepper, feed = stepper_of(recipe_in(tmp_path, *LORA))
    found = gradients(stepper, feed[0])
    base, _ = build_model(recipe_in(tmp_path).model, open_mixture(recipe_in(tmp_path)), 40)
    expected = {f"model.connector.{name}" for name, _ in base.model.connector.named_parameters()}
    for layer in ("q_proj", "k_proj", "v_proj", "o_proj"):
        expected |= {f"model.language_model.layers.0.self_attn.{layer}.lora_{x}.default.weight" for x in "AB"}
    for layer in ("gate_proj", "up_proj", "down_proj"):
        expected |= {f"model.language_model.layers.0.mlp.{layer}.lora_{x}.default.weight" for x in "AB"}
    assert found.keys() == expected
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_only_what_is_not_frozen_moves(tmp_path: Path, recipe_in) -> None:
    """A vision encoder that is not frozen trains too: its layers have the names of the adapted ones, and no adapter.

    In fp32: of a fresh encoder the gradient of a query's bias is so small that bf16 rounds it away. A key's bias moves
    all scores of a query alike, which softmax does not see: whether it moves is chance, so it is left out.
    """
    targets = "train.lora.targets=['*.q_proj', '*mlp*']"
    stepper, feed = stepper_of(recipe_in(tmp_path, LORA[0], targets, "train.precision=fp32"))
    before = {name: parameter.detach().clone() for name, parameter in stepper.model.named_parameters()}
    for index in range(3):
        do_step(stepper, index, feed[index])
    moved = {name for name, parameter in stepper.model.named_parameters() if not torch.equal(before[name], parameter)}
    expected = {name for name in before if "lora_" in name or "connector" in name or "vision_tower" in name}
    key_biases = {name for name in before if name.endswith("k_proj.bias")}
    assert moved - key_biases == expected - key_biases
    adapted = {name.split(".lora_")[0] for name in moved if "lora_" in name}
    start = "model.language_model.layers.0"
    assert adapted == {f"{start}.self_attn.q_proj"} | {f"{start}.mlp.{x}_proj" for x in ("gate", "up", "down")}


def test_everything_but_the_adapters_may_be_frozen(tmp_path: Path, recipe_in) -> None:
    stepper, feed = stepper_of(recipe_in(tmp_path, LORA[0], "train.freeze=['*']"))
    found = gradients(stepper, feed[0])
    assert found
    assert all("lora_" in name for name in found)


@pytest.mark.parametrize("target", ["*.query", "model.vision_tower.*.q_proj", "lm_head"])
def test_a_target_that_is_not_there(target: str) -> None:
    with pytest.raises(
        ValueError, match=r"train\.lora\.targets: .* matches no linear layer .*, self_attn\.q_proj, "
    ) as e:
        Adapters(make_model(), LoraSettings(targets=("*.o_proj", target)))
    assert repr(target) in str(e.value)


def test_without_peft_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install \"mutua\[lora\]\""):
        Adapters(make_model(), LoraSettings())


# The other ways to save time and memory


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_checkpointing_changes_no_gradient(precision: str, tmp_path: Path, recipe_in) -> None:
    stepper, feed = stepper_of(recipe_in(tmp_path, *LORA, f"train.precision={precision}"))
    plain = gradients(stepper, feed[0])
    runs = []
    stepper.model.model.language_model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: runs.append(1))
    recompute_activations(stepper.model)
    again = gradients(stepper, feed[0])
    assert len(runs) == 2 * len(feed[0].micro_batches)
    assert again.keys() == plain.keys()
    assert all(torch.equal(again[name], plain[name]) for name in plain)


def test_bf16_is_close_and_leaves_weights_in_fp32(tmp_path: Path, recipe_in) -> None:
    exact, feed = stepper_of(recipe_in(tmp_path, *LORA, "train.lora.dropout=0.0", "train.precision=fp32"))
    rough, _ = stepper_of(recipe_in(tmp_path, *LORA, "train.lora.dropout=0.0", "train.precision=bf16"))
    a, b = gradients(exact, feed[0]), gradients(rough, feed[0])
    assert {parameter.dtype for parameter in rough.model.parameters()} == {torch.float32}
    assert not all(torch.equal(a[name], b[name]) for name in a)
    both = [torch.cat([gradient.flatten() for gradient in one.values()]) for one in (a, b)]
    assert (both[0] - both[1]).norm() < 0.05 * both[0].norm()


def test_micro_batches_add_up_to_the_batch(tmp_path: Path, recipe_in) -> None:
    fixed = (*LORA, "train.lora.dropout=0.0", "model.text.attention_dropout=0.0", "train.precision=fp32")
    whole, split = (stepper_of(recipe_in(tmp_path, *fixed, f"train.micro_batch_size={size}")) for size in (4, 1))
    assert (len(whole[1][0].micro_batches), len(split[1][0].micro_batches)) == (1, 4)
    a, b = gradients(whole[0], whole[1][0]), gradients(split[0], split[1][0])
    for name in a:
        assert (a[name] - b[name]).norm() < 1e-5 * a[name].norm(), name


def test_cached_features_give_the_same_losses(tmp_path: Path, recipe_in) -> None:
    plain, feed = stepper_of(recipe_in(tmp_path, *LORA))
    cached, _ = stepper_of(recipe_in(tmp_path, *LORA, "train.cache_vision_mb=1"))
    encoded = []
    cached.model.model.vision_tower.register_forward_hook(lambda *_: encoded.append(1))
    losses = []
    for stepper in (plain, cached):
        torch.manual_seed(2)
        losses.append([do_step(stepper, index, feed[index // 2]).loss for index in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(encoded) == 4  # the two micro-batches of two batches, each of them once, though seen twice


# Merging, and PEFT's own format


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_merged_is_unmerged(chats, dtype: torch.dtype, tolerance: float) -> None:
    model = make_model(initializer_range=0.1)
    names = [(name, parameter.shape) for name, parameter in model.named_parameters()]
    adapters = Adapters(model, LoraSettings(rank=3, alpha=5))
    bare = logits_of(model.to(dtype), *chats)
    shake(model)
    expected = logits_of(model, *chats)
    adapters.merge()
    assert [(name, parameter.shape) for name, parameter in model.named_parameters()] == names
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    for merged, unmerged, before in zip(logits_of(model, *chats), expected, bare, strict=True):
        assert (merged - unmerged).abs().max() < tolerance
        assert (merged - before).abs().max() > 0.1


def test_merging_adds_the_scaled_product() -> None:
    model = make_model()
    layer = model.model.language_model.layers[1].self_attn.k_proj
    before = layer.weight.detach().clone()
    adapters = Adapters(model, LoraSettings(rank=2, alpha=6, targets=("*.k_proj",)))
    shake(model)
    weights = {name: parameter for name, parameter in model.named_parameters() if "layers.1.self_attn.k_proj" in name}
    a, b = (next(p for name, p in weights.items() if f"lora_{x}" in name).detach() for x in "AB")
    adapters.merge()
    merged = model.model.language_model.layers[1].self_attn.k_proj.weight
    assert torch.allclose(merged, before + 3 * b @ a, atol=1e-6)


@pytest.mark.parametrize("frozen", [["connector", "vision_tower"], ["vision_tower"], []])
def test_peft_reads_what_is_exported(tmp_path: Path, chats, frozen: list[str]) -> None:
    """On the model that training started from, with all that was trained beside the adapters."""
    from peft import PeftModel

    model = make_model()
    for part in frozen:
        getattr(model.model, part).requires_grad_(False)
    adapters = Adapters(model, LoraSettings(rank=4, alpha=8))
    shake(model)
    for part in {"connector", "vision_tower"} - set(frozen):
        shake(model, f".{part}.")
    expected = logits_of(model, *chats)
    adapters.export(tmp_path)
    written = ["adapter_config.json", "adapter_model.safetensors", "attention_policy.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    assert (json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] is None) == (len(frozen) == 2)

    by_peft = PeftModel.from_pretrained(make_model(), tmp_path)
    by_transformers = make_model()
    by_transformers.load_adapter(str(tmp_path))
    for loaded in (by_peft, by_transformers):
        for found, wanted in zip(logits_of(loaded, *chats), expected, strict=True):
            assert torch.equal(found, wanted)


# Whole runs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, recipe_in: Callable[..., Recipe]) -> Path:
    """A model to start from, which no run may change."""
    folder = tmp_path_factory.mktemp("base")
    recipe = recipe_in(folder)
    torch.manual_seed(5)
    model, processor = build_model(recipe.model, open_mixture(recipe), 40)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe_on(recipe_in: Callable[..., Recipe], base: Path) -> Callable[..., Recipe]:
    """`recipe_on(folder, "key=value", ...)`: the small recipe with adapters, on the base."""

    def make(folder: Path, *overrides: str) -> Recipe:
        model = f"model={{path: {base}}}"
        return recipe_in(folder, model, *LORA, "train.cache_vision_mb=1", "train.learning_rate=1e-2", *overrides)

    return make


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, recipe_on) -> tuple[Path, str]:
    """A run that nobody disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("reference")
    with (folder / "told.txt").open("w+") as told:
        train(recipe_on(folder), Console(file=told, width=200))
        told.seek(0)
        return folder / "run", told.read()


def test_what_a_run_writes(reference: tuple[Path, str], base: Path) -> None:
    run, told = reference
    model = MutuaForConditionalGeneration.from_pretrained(base)
    connector = sum(p.numel() for p in model.model.connector.parameters())
    # Four times 32 x 32 and three times 32 x 64, a rank of 4 on both sides.
    adapters = 4 * 4 * (32 + 32) + 3 * 4 * (32 + 64)
    everything = model.num_parameters() + adapters
    assert (
        f"small: {everything:,} weights, {connector + adapters:,} of them trained (model.connector: {connector:,}, "
        f"LoRA of rank 4 on 7 linear layers of the language model: {adapters:,}), policy mma"
    ) in told
    log = lines(run)
    assert log[-1]["loss"] < log[0]["loss"]
    assert [line["step"] for line in lines(run, "evaluations.jsonl")] == [3, 6, 9]
    checkpoint = run / "checkpoints" / "step-000009"
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "recipe.yaml",
        "run.json",
        "trained.safetensors",
        "trainer.json",
        "trainer.safetensors",
    ]
    assert (checkpoint / "trained.safetensors").stat().st_size < 4 * (connector + adapters) + 10_000
    assert "peft" in json.loads((run / "model" / "run.json").read_text())["versions"]
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_the_finished_model_is_the_base_with_its_adapter(reference, base: Path, chats) -> None:
    from peft import PeftModel

    merged = MutuaForConditionalGeneration.from_pretrained(reference[0] / "model")
    start = MutuaForConditionalGeneration.from_pretrained(base)
    assert list(merged.state_dict()) == list(start.state_dict())
    text = {**chats[1], "input_ids": chats[1]["input_ids"].clamp(max=250)}
    untrained = logits_of(start, text)[0]
    adapted = PeftModel.from_pretrained(start, reference[0] / "adapter")
    assert (logits_of(merged, text)[0] - logits_of(adapted, text)[0]).abs().max() < 1e-5
    assert (logits_of(merged, text)[0] - untrained).abs().max() > 1e-3
    with adapted.disable_adapter():  # the language model itself is untouched
        assert torch.equal(logits_of(adapted, text)[0], untrained)


def test_the_folder_of_adapters_loads_as_the_finished_model(reference, chats) -> None:
    merged, _ = mutua.load(reference[0] / "model")
    adapted, processor = mutua.load(reference[0] / "adapter", policy="causal", dtype="float64")
    assert type(adapted) is MutuaForConditionalGeneration
    assert (adapted.config.attention_policy, adapted.dtype, adapted.training) == ("causal", torch.float64, False)
    assert processor.num_image_tokens == merged.config.num_image_tokens
    for name, weight in merged.state_dict().items():
        assert (adapted.state_dict()[name] - weight).abs().max() < 1e-5


def test_a_folder_of_adapters_knows_their_policy(reference, base: Path) -> None:
    """That of their base may be another: the recipe named the one that they were trained under."""
    folder = reference[0] / "adapter"
    assert json.loads((folder / "attention_policy.json").read_text()) == {"attention_policy": "mma"}
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "attention_policy": "causal"}))
    try:
        assert mutua.load(base)[0].config.attention_policy == "causal"
        assert mutua.load(folder)[0].config.attention_policy == "mma"
    finally:
        (base / "config.json").write_text(json.dumps(config))


def test_the_finished_model_needs_no_peft(reference: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    _, report = MutuaForConditionalGeneration.from_pretrained(reference[0] / "model", output_loading_info=True)
    assert not any(report.values()), report


@pytest.mark.slow
def test_kill_9_and_ctrl_c_change_no_bit(
    tmp_path: Path, recipe_on, reference: tuple[Path, str], console: Console, monkeypatch
) -> None:
    """Killed at step 7 in a process of its own, gone on from step 4, stopped at step 6, gone on in another process."""
    recipe = recipe_on(tmp_path)
    model, freeze = f"model={{path: {recipe.model.path}}}", LORA[1]
    rest = (model, LORA[0], freeze, "train.cache_vision_mb=1", "train.learning_rate=1e-2", "train.workers=1")
    status, told = child(tmp_path / "small.yaml", 6, "SIGKILL", *rest)
    assert status == -signal.SIGKILL, told
    (tmp_path / "run" / "adapter.new").mkdir()  # as a process that is killed between its last two steps leaves it
    at_step(monkeypatch, 5, lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert train(recipe, console).step == 6
    assert not (tmp_path / "run" / "adapter.new").exists()
    assert train(recipe, console).step == 9
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step-000004" in told
    assert "step-000006" in told
    expect_equal(tmp_path / "run", reference[0])
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (reference[0] / weights).read_bytes()
    config = "adapter/adapter_config.json"
    assert (tmp_path / "run" / config).read_text() == (reference[0] / config).read_text()


def test_a_preset_comes_back_too(tmp_path: Path, recipe_in, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(folder: str) -> Recipe:
        (tmp_path / folder).mkdir(exist_ok=True)
        return recipe_in(tmp_path / folder, *LORA, "train.steps=4", "evaluate.sources={}")

    train(recipe("whole"), Console(quiet=True))
    at_step(monkeypatch, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert train(recipe("halves"), Console(quiet=True)).interrupted
    train(recipe("halves"), Console(quiet=True))
    assert lines(tmp_path / "halves" / "run") == lines(tmp_path / "whole" / "run")


def test_another_base_is_noticed(tmp_path: Path, recipe_in, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = tmp_path / "start"
    model = MutuaForConditionalGeneration.from_pretrained(base)
    model.save_pretrained(start)
    for path in base.iterdir():
        if path.is_file() and not (start / path.name).exists():
            (start / path.name).write_bytes(path.read_bytes())
    recipe = recipe_in(tmp_path, f"model={{path: {start}}}", *LORA, "evaluate.sources={}")
    at_step(monkeypatch, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert train(recipe, Console(quiet=True)).interrupted
    with torch.no_grad():
        model.model.language_model.norm.weight[3] += 1e-3
    model.save_pretrained(start)
    with pytest.raises(CheckpointError, match=r"step-000002: does not fit the model .* frozen weights have changed"):
        train(recipe, Console(quiet=True))


@pytest.mark.parametrize("changed", ["policy", "template", "pixels"])
def test_a_base_that_reads_otherwise_is_noticed(
    changed: str, tmp_path: Path, recipe_in, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of adapters holds neither config nor processor: those of the base count."""
    start = tmp_path / "start"
    shutil.copytree(base, start)
    recipe = recipe_in(tmp_path, f"model={{path: {start}}}", *LORA, "evaluate.sources={}")
    at_step(monkeypatch, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert train(recipe, Console(quiet=True)).interrupted
    name, old, new = {
        "policy": ("config.json", '"mma"', '"causal"'),
        "template": ("chat_template.jinja", "<|end|>", " <|end|>"),
        "pixels": ("processor_config.json", "0.5", "0.25"),
    }[changed]
    text = (start / name).read_text()
    assert old in text
    (start / name).write_text(text.replace(old, new))
    with pytest.raises(
        CheckpointError, match=r"step-000002: does not fit .*its (policy is causal, and was mma|chat temp)"
    ):
        train(recipe, Console(quiet=True))


def test_a_checkpoint_is_no_model_to_start_from(tmp_path: Path, recipe_in, reference) -> None:
    checkpoint = reference[0] / "checkpoints" / "step-000009"
    with pytest.raises(ModelError, match=r"train\.lora is no model by itself; its finished model is"):
        train(recipe_in(tmp_path, f"model={{path: {checkpoint}}}"), Console(quiet=True))
