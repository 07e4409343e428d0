"""On a CUDA device: every backend against the oracle, the packaged model against itself on the CPU, training and going
on. `make test-cuda` runs these and nothing else."""

from __future__ import annotations

import os
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from attention_cases import Case, case_of, conversation, expected
from torch import nn
from torch.nn.functional import pad
from training_runs import at_step, lines

import mutua
from mutua.attention import BACKENDS, POLICIES
from mutua.data.collate import encode, encode_prompts, supervised_positions
from mutua.data.readers import Scenes
from mutua.evaluation.accuracy import evaluate
from mutua.roles import TokenRoles
from mutua.training import load_recipe, train

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

RECIPE = """
name: cuda
output: {output}
model: {{preset: tiny, text: {{num_hidden_layers: 2}}}}
data:
  train: [{{source: {{type: scenes, split: train, size: 500}}}}]
  tokenizer_texts: 200
train: {{steps: 12, batch_size: 32, learning_rate: 1.0e-3, precision: {precision}, checkpoint_every: 6, log_every: 1}}
"""


def on_cuda(case: Case) -> Case:
    roles = TokenRoles(*(getattr(case.roles, field.name).to("cuda") for field in fields(TokenRoles)))
    padding = None if case.padding_BK is None else case.padding_BK.to("cuda")
    return replace(case, roles=roles, padding_BK=padding)


def uneven(case: Case) -> Case:
    """The second row ends early, so a third of it is padding."""
    roles = case.roles
    keep = torch.arange(case.shape[1]) < 2 * case.shape[1] // 3
    document_BN = torch.where(torch.stack([torch.ones_like(keep), keep]), roles.document_BN, -1)
    padded = TokenRoles.from_responses(roles.is_response_BN & (document_BN >= 0), roles.modality_BN, document_BN)
    return replace(case, roles=padded, padding_BK=pad(padded.is_token_BN, (case.past, 0), value=True))


@pytest.mark.parametrize(
    ("policy", "image", "past"),
    [("mma", 33, 0), ("mma", 600, 70), ("causal", 600, 0), ("mma-bidirectional", 600, 0), ("prefix", 33, 70)],
)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        ("mutua_sdpa", torch.float32, 2e-4),
        ("mutua_sdpa", torch.bfloat16, 2e-2),
        ("mutua_flex", torch.float32, 2e-2),  # its products round as TensorFloat-32 where the device has that
        ("mutua_flex", torch.bfloat16, 2e-2),
        ("mutua_auto", torch.float32, 2e-2),
        ("mutua_auto", torch.bfloat16, 2e-2),
    ],
    ids=str,
)
def test_a_backend_equals_the_oracle(backend, dtype, tolerance, policy, image, past):
    """Short rows and rows long enough for what `auto` takes there, padded, with and without a cache."""
    case = uneven(case_of(conversation(image, 30, 500), past=past, policy=POLICIES[policy]))
    rounded = [x.to(dtype) for x in case.tensors()]
    is_real_BHND = case.is_real_BN[:, None, :, None].expand_as(rounded[0])
    rounded[3] = rounded[3] * is_real_BHND
    module = nn.Module()
    module.num_key_value_groups = case.groups
    inputs = [x.to("cuda").requires_grad_() for x in rounded[:3]]
    built = on_cuda(case).mask(BACKENDS[backend].build_mask, device="cuda")
    out = BACKENDS[backend].attend(module, *inputs, built, scaling=case.scale)[0].transpose(1, 2)
    got = [out * is_real_BHND.to("cuda"), *torch.autograd.grad(out, inputs, rounded[3].to("cuda"))]
    for name, value, want in zip(("out", "dq", "dk", "dv"), got, expected(case, rounded, case.allowed()), strict=True):
        want = want * is_real_BHND if name == "out" else want
        error = float((value.cpu() - want).abs().max() / want.abs().max().clamp(min=1))
        assert error < tolerance, f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("backend", ["mutua_auto", "mutua_sdpa", "mutua_flex"])
def test_the_packaged_model_says_what_it_says_on_the_cpu(backend):
    """Logits of padded prompts; answers from a growing and from a static cache, whose steps Transformers compiles."""
    samples = [Scenes("test", 24)[index] for index in range(24)]
    model, processor = mutua.load(device="cpu")
    prompts = encode_prompts(samples, processor)
    with torch.no_grad():
        want = model(**prompts).logits
    said = model.generate(**prompts, do_sample=False, max_new_tokens=8)
    model.to("cuda")
    model.set_attn_implementation(backend)
    there = {name: tensor.to("cuda") for name, tensor in prompts.items()}
    with torch.no_grad():
        got = model(**there).logits.cpu()
    is_real_BN = prompts["attention_mask"].bool()
    # The convolution of the patches rounds as TensorFloat-32.
    torch.testing.assert_close(got[is_real_BN], want[is_real_BN], atol=0.1, rtol=0.02)
    assert torch.equal(model.generate(**there, do_sample=False, max_new_tokens=8).cpu(), said)
    fixed = model.generate(**there, do_sample=False, max_new_tokens=8, cache_implementation="static")
    assert torch.equal(fixed.cpu(), said)
    in_bf16 = model.to(torch.bfloat16).generate(**there, do_sample=False, max_new_tokens=8).cpu()
    assert (in_bf16 == said).float().mean() > 0.9


def test_gradients_are_those_of_the_cpu():
    samples = [Scenes("train", 16)[index] for index in range(16)]
    model, processor = mutua.load(device="cpu")
    batch = encode(samples, processor)
    batch["supervised_positions"] = supervised_positions(batch["labels"])

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss.backward()
        return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}

    want = gradients()
    model.to("cuda")
    there = gradients()
    assert there.keys() == want.keys()
    for name, got in there.items():
        largest = want[name].abs().max()
        assert float((got - want[name]).abs().max()) <= 0.03 * largest + 1e-6, name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_goes_on_where_it_was_stopped(precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Twelve steps in one go, and with a stop after the seventh. Some kernels add in any order: nearly equal."""
    runs = {}
    for name in ("whole", "stopped"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.format(output=tmp_path / name, precision=precision))
        runs[name] = load_recipe(path)
    train(runs["whole"])
    with monkeypatch.context() as patched:
        at_step(patched, 6, lambda stepper: os.kill(os.getpid(), signal.SIGINT))
        assert train(runs["stopped"]).interrupted
    assert not train(runs["stopped"]).interrupted
    losses = {name: [line["loss"] for line in lines(recipe.output)] for name, recipe in runs.items()}
    assert len(losses["whole"]) == 12
    assert losses["stopped"] == pytest.approx(losses["whole"], rel=0.02)
    assert losses["whole"][-1] < losses["whole"][0]


def test_evaluation_scores_as_on_the_cpu():
    model, processor = mutua.load(device="cpu")
    samples = Scenes("test", 100)
    want = [record.answer for record in evaluate(model, processor, samples).records]
    got = [record.answer for record in evaluate(model.to("cuda"), processor, samples).records]
    assert sum(a == b for a, b in zip(got, want, strict=True)) >= 99
