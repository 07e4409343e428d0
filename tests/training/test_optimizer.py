"""What weight decay pulls on, in every vision encoder and connector."""

from __future__ import annotations

import pytest
import torch
from tiny_model import make_model
from tiny_parts import VISION
from torch import nn
from transformers import AutoModel

from mutua.training.optimizer import build_optimizer
from mutua.training.recipe import TrainSettings

SETTINGS = TrainSettings(steps=1, batch_size=1, learning_rate=0.1)

# By name, so that the list owes nothing to the types by which the optimizer chooses.
NEVER = ("bias", "norm", "layernorm", "embedding", "embed_tokens", "token", "latents", "lambda1", "probe")


def decayed_names(model: nn.Module) -> tuple[set[str], set[str]]:
    """The names of what decays, and of all the rest."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = build_optimizer(model, SETTINGS).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    return {names[id(p)] for p in decayed["params"]}, {names[id(p)] for p in free["params"]}


def is_patch_projection(name: str) -> bool:
    """The convolution that cuts a picture into patches: an `embedding` by name, a matrix by what it does."""
    return name.endswith(("patch_embedding.weight", "patch_embeddings.weight", "patch_embeddings.projection.weight"))


@pytest.mark.parametrize("encoder", VISION)
def test_of_every_vision_encoder_only_matrices_decay(encoder: str) -> None:
    model = AutoModel.from_config(VISION[encoder]())
    decayed, free = decayed_names(model)
    assert decayed | free == {name for name, _ in model.named_parameters()}
    assert sum(is_patch_projection(name) for name in decayed) == 1
    for name in decayed - {name for name in decayed if is_patch_projection(name)}:
        assert name.endswith(".weight")
        assert not any(part in name.rpartition(".weight")[0].rpartition(".")[2] for part in NEVER), name
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    # What is left out although it is a matrix, or a stack of them.
    bare = {name.rpartition(".")[2] for name in free if len(shapes[name]) >= 2 and not name.endswith(".weight")}
    embeddings = {name for name in free if len(shapes[name]) >= 2 and name.endswith(".weight")}
    assert (
        bare
        == {
            "siglip": {"probe", "in_proj_weight"},  # of the pooling head, which is never run
            "clip": set(),
            "dinov2": {"cls_token", "mask_token", "position_embeddings"},
            "dinov2_with_registers": {"cls_token", "mask_token", "register_tokens", "position_embeddings"},
            "dinov3": {"cls_token", "mask_token", "register_tokens"},
        }[encoder]
    )
    assert all("embedding" in name for name in embeddings)


@pytest.mark.parametrize("connector", ["mlp", "resampler"])
@pytest.mark.parametrize("tied", [True, False])
def test_of_a_whole_model(connector: str, tied: bool) -> None:
    decayed, free = decayed_names(make_model(connector=connector, tie_word_embeddings=tied))
    of_connector = {name.removeprefix("model.connector.") for name in decayed if "connector" in name}
    layer = ("attention.to_q", "attention.to_kv", "attention.to_out", "feed_forward.1", "feed_forward.3")
    assert (
        of_connector
        == {
            "mlp": {"up.weight", "down.weight"},
            "resampler": {f"layers.{n}.{part}.weight" for n in (0, 1) for part in layer} | {"projection.weight"},
        }[connector]
    )
    assert ("model.connector.latents" in free) == (connector == "resampler")
    assert "model.language_model.embed_tokens.weight" in free
    assert ("lm_head.weight" in decayed) == (not tied)


def test_decay_leaves_a_bare_parameter_where_it_is() -> None:
    model = AutoModel.from_config(VISION["dinov2"]())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, SETTINGS)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == decayed_names(model)[0]
