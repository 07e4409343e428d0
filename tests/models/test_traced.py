"""Compiled, exported, and without waiting for the device: what a forward with images must not do to the host."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from host_reads import HostReads
from tiny_model import assistant, make_model, picture, user
from torch._dynamo.testing import CompileCounter
from transformers import AutoModelForCausalLM

from mutua.attention import BACKENDS, split
from mutua.roles import TokenRoles

CHATS = [
    [user(picture(1), "is it red?"), assistant("yes")],
    [user(picture(2), "a longer question, is it not?"), assistant("no it is")],
    [user(picture(3), "which?"), assistant("the red one"), user("why?"), assistant("so")],
]
KEYS = ("input_ids", "pixel_values", "attention_mask", "token_type_ids")


@pytest.fixture(scope="module")
def model():
    return make_model("mma")


def arguments(encode, chat, **options) -> tuple[torch.Tensor, ...]:
    inputs = encode(chat, **options)
    return tuple(inputs[key] for key in KEYS)


@pytest.mark.parametrize(
    "policy", ["mma", *(pytest.param(one, marks=pytest.mark.slow) for one in ("causal", "mma-bidirectional"))]
)
def test_a_forward_with_images_compiles_to_one_graph_for_all_lengths(policy, encode):
    torch._dynamo.reset()
    model, counter = make_model(policy), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for chat in CHATS:
        inputs = encode(chat, "right")
        with torch.no_grad():
            torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=0.0)
    assert counter.frame_count == 1, "another length compiles nothing anew"


def test_a_compiled_training_step_has_the_same_gradients(encode):
    torch._dynamo.reset()
    model = make_model("mma").train()
    inputs = encode(CHATS, "right")
    is_response = TokenRoles.from_codes(inputs["token_type_ids"]).is_response_BN
    labels = torch.where(is_response, inputs["input_ids"], -100)
    gradients = []
    for network in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        network(**inputs, labels=labels, use_cache=False).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, atol=1e-5, rtol=1e-3, msg=name)


class Logits(torch.nn.Module):
    """What is exported: tensors in, logits out."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, pixel_values, attention_mask, token_type_ids):
        return self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            use_cache=False,
        ).logits


def test_an_exported_model_is_exact_for_other_lengths(model, encode):
    rows, tokens = torch.export.Dim("rows", max=64), torch.export.Dim("tokens", max=2000)
    shapes = ({0: rows, 1: tokens}, {0: torch.export.Dim("images", max=64)}, {0: rows, 1: tokens}, {0: rows, 1: tokens})
    exported = torch.export.export(
        Logits(model), arguments(encode, CHATS[:2], side="right"), dynamic_shapes=shapes
    ).module()
    for chats in (CHATS, [CHATS[2], CHATS[0], CHATS[1], CHATS[2]]):
        inputs = encode(chats, "right")
        with torch.no_grad():
            got, expected = exported(*(inputs[key] for key in KEYS)), model(**inputs).logits
        keep = inputs["attention_mask"].bool()
        torch.testing.assert_close(got[keep], expected[keep], atol=1e-4, rtol=0.0)


def reads(call) -> int:
    with torch.no_grad(), HostReads() as mode:
        call()
    return len(mode.files)


def test_a_decoded_token_reads_no_more_than_transformers_does_itself(model, encode):
    inputs = encode([chat[:1] for chat in CHATS], add_generation_prompt=True)
    text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    alone = AutoModelForCausalLM.from_config(deepcopy(model.config.text_config), attn_implementation="sdpa").eval()

    def per_token(network, given: dict) -> float:
        counts = [
            reads(lambda n=n: network.generate(**given, min_new_tokens=n, max_new_tokens=n, do_sample=False))
            for n in (4, 12)
        ]
        return (counts[1] - counts[0]) / 8

    assert per_token(model, inputs) == per_token(alone, text)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("mutua_flex", "mutua_reference")])
def test_a_forward_reads_as_often_with_many_layers_as_with_few(backend, encode):
    counts = []
    for layers in (1, 6):
        model = make_model("mma", num_hidden_layers=layers)
        model.set_attn_implementation(backend)
        inputs = encode(CHATS, "right")
        counts.append(reads(lambda model=model, inputs=inputs: model(**inputs, use_cache=False)))
    assert counts[0] == counts[1] > 0
    assert counts[0] <= (10 if backend == split.NAME else 5), "split reads where each row's blocks begin and end"
