"""A cached image is, bit by bit, what any run computes of it: whatever is beside it, and wherever it stands."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_model import make_model
from tiny_parts import VISION
from transformers import AutoModel, SiglipVisionConfig

from mutua.models import MutuaForConditionalGeneration
from mutua.training.vision_cache import BATCH, VisionCache

# Wide enough that kernels block their sums: features of a batch of one differ from those of a batch of eight.
WIDE = SiglipVisionConfig(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=1,
    num_attention_heads=12,
    image_size=112,
    patch_size=16,
    vision_use_head=False,
)


def cache_of(encoder: torch.nn.Module, limit_mb: int = 64) -> VisionCache:
    """On a stand-in for a model, which needs no connector and no language model."""
    encoder.requires_grad_(False)
    inner = SimpleNamespace(
        vision_tower=encoder,
        device=torch.device("cpu"),
        get_vision_features=lambda pixels: encoder(pixel_values=pixels).last_hidden_state,
    )
    return VisionCache(SimpleNamespace(model=inner, named_parameters=encoder.named_parameters), limit_mb)  # type: ignore[arg-type]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("encoder", [*VISION, "wide"])
def test_features_do_not_depend_on_place_or_neighbours(encoder: str, bf16: bool) -> None:
    torch.manual_seed(0)
    config = WIDE if encoder == "wide" else VISION[encoder]()
    tower = AutoModel.from_config(config)
    side = config.image_size
    images = torch.randn(BATCH + 3, 3, side, side)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        expected = cache_of(tower).features(images)
        alone = [cache_of(tower).features(image[None])[0] for image in images]
        moved = cache_of(tower).features(images.roll(4, 0))
        cache = cache_of(tower)
        cache.features(images[::2])
        partly = cache.features(images)
    for nth in range(len(images)):
        assert torch.equal(alone[nth], expected[nth])
    assert torch.equal(moved.roll(-4, 0), expected)
    assert torch.equal(partly, expected)


def frozen() -> tuple[MutuaForConditionalGeneration, list[int]]:
    """A model, and how many images every pass through its vision encoder had."""
    model = make_model()
    model.model.vision_tower.requires_grad_(False)
    passes: list[int] = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    return model, passes


def test_misses_are_encoded_together_and_each_image_once() -> None:
    model, passes = frozen()
    cache = VisionCache(model, 1)
    images = torch.randn(10, 3, 32, 32)
    first = cache.features(torch.cat([images, images[:2]]))
    assert passes == [BATCH, BATCH]
    assert torch.equal(first[:2], first[10:])
    assert torch.equal(cache.features(images), first[:10])
    assert passes == [BATCH, BATCH]


def test_a_full_cache_keeps_what_it_has() -> None:
    model, _ = frozen()
    cache = VisionCache(model, 1)
    images = torch.randn(4, 3, 32, 32)
    cache._room = 2 * cache.features(images)[0].nbytes - 1
    held = len(cache._features)
    fresh = cache.features(images + 1)
    assert len(cache._features) == held + 1
    assert torch.equal(fresh, cache.features(images + 1))
    assert len(cache._features) == held + 1


def test_pixels_in_bf16_are_told_apart() -> None:
    model, _ = frozen()
    cache = VisionCache(model, 1)
    images = torch.randn(2, 3, 32, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = cache.features(images)
    assert len(cache._features) == 2
    assert not torch.equal(found[0], found[1])
