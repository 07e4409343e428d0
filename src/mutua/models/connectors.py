"""Connectors: from the vision encoder's features to tokens of the language model.

Shape suffixes: I images, P patches, L latents, S = P + L, V vision width, T text width, H heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mutua.models.configuration import MutuaConfig


class MLPConnector(nn.Module):
    """Two linear layers with a GELU, patch by patch: keeps the patch grid (LLaVA-1.5, arXiv 2310.03744)."""

    def __init__(self, config: MutuaConfig) -> None:
        super().__init__()
        text_width = config.text_config.hidden_size
        self.up = nn.Linear(config.vision_config.hidden_size, text_width)
        self.down = nn.Linear(text_width, text_width)

    def forward(self, features_IPV: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(features_IPV)))


class ResamplerAttention(nn.Module):
    """Latents attend to the image features and to themselves; no biases."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, features_IPV: Tensor, latents_ILV: Tensor) -> Tensor:
        features_IPV, latents_ILV = self.norm_media(features_IPV), self.norm_latents(latents_ILV)
        q_IHLD = self._split(self.to_q(latents_ILV))
        k_ISX, v_ISX = self.to_kv(torch.cat([features_IPV, latents_ILV], dim=1)).chunk(2, dim=-1)
        out_IHLD = F.scaled_dot_product_attention(q_IHLD, self._split(k_ISX), self._split(v_ISX))
        return self.to_out(out_IHLD.transpose(1, 2).flatten(2))

    def _split(self, x_INX: Tensor) -> Tensor:
        return x_INX.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)


class ResamplerLayer(nn.Module):
    """Attention and a feed-forward (pre-norm, exact GELU, no biases), each with a residual."""

    def __init__(self, width: int, heads: int, head_dim: int, ff_mult: int) -> None:
        super().__init__()
        self.attention = ResamplerAttention(width, heads, head_dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, ff_mult * width, bias=False),
            nn.GELU(),
            nn.Linear(ff_mult * width, width, bias=False),
        )

    def forward(self, features_IPV: Tensor, latents_ILV: Tensor) -> Tensor:
        latents_ILV = latents_ILV + self.attention(features_IPV, latents_ILV)
        return latents_ILV + self.feed_forward(latents_ILV)


class PerceiverResampler(nn.Module):
    """The paper's connector (arXiv 2503.02597, section 4; Flamingo, arXiv 2204.14198): a fixed number of latents."""

    def __init__(self, config: MutuaConfig) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        self.latents = nn.Parameter(torch.randn(config.resampler_latents, width))
        self.layers = nn.ModuleList(
            ResamplerLayer(width, config.resampler_heads, config.resampler_head_dim, config.resampler_ff_mult)
            for _ in range(config.resampler_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.text_config.hidden_size)

    def forward(self, features_IPV: Tensor) -> Tensor:
        latents_ILV = self.latents.expand(features_IPV.shape[0], -1, -1)
        for layer in self.layers:
            latents_ILV = layer(features_IPV, latents_ILV)
        return self.projection(self.norm(latents_ILV))


CONNECTORS: dict[str, type[nn.Module]] = {"resampler": PerceiverResampler, "mlp": MLPConnector}

_SIZES = {"mlp": (), "resampler": ("latents", "depth", "heads", "head_dim", "ff_mult")}


def connector_keys(connector: str | Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `MutuaConfig` for a connector by name, or by `{"type": name, size: number, ...}`.

    Raises:
        ValueError: no such connector, a size that it does not have, or one that is no whole number above 0.
    """
    sizes = {"type": connector} if isinstance(connector, str) else dict(connector)
    name = sizes.pop("type", None)
    if name not in _SIZES:
        raise ValueError(f"no connector {name!r}; allowed: {', '.join(_SIZES)}")
    for key, size in sizes.items():
        if key not in _SIZES[name]:
            raise ValueError(f"no size {key!r} of the connector {name}; allowed: {', '.join(_SIZES[name]) or 'none'}")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{key} of the connector is {size!r}: a whole number of at least 1 is needed")
    return {"connector": name, **{f"{name}_{key}": size for key, size in sizes.items()}}
