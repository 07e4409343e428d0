"""The vision encoders that a model can be built from: which of their tokens are patches, what pictures they take.

One entry a type in `VISION_ENCODERS`; a new encoder of the same kind (tokens of a patch grid behind a few tokens that
stand for the whole picture) is one entry more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL.Image import Resampling
from transformers.models.siglip import SiglipImageProcessorPil

Colour = tuple[float, float, float]

_HALF: Colour = (0.5, 0.5, 0.5)
_IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
_IMAGENET_STD: Colour = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VisionEncoder:
    """What has to be known of a type of encoder besides its config.

    Attributes:
        title: its name in prose.
        mean, std: of the three colours, as the encoder was trained; a checkpoint's own values win.
        resample: how pictures are scaled; likewise.
        feature_layer: the hidden state that `mutua.compose` takes unless told otherwise; -1 is the last one, after the
            encoder's final norm where it has one for its tokens.
        class_tokens: tokens before the patch grid that stand for the whole picture, registers not counted.
        any_size: whether it takes pictures of other sizes than its config's.
    """

    title: str
    mean: Colour
    std: Colour
    resample: Resampling
    feature_layer: int = -1
    class_tokens: int = 0
    any_size: bool = False


_CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)

VISION_ENCODERS: dict[str, VisionEncoder] = {
    # SigLIP 2 of one resolution has the classes of SigLIP.
    "siglip_vision_model": VisionEncoder("SigLIP, SigLIP 2", _HALF, _HALF, Resampling.BICUBIC),
    # The last layer of CLIP is trained through the class token alone: the one before serves patches better (LLaVA,
    # arXiv 2304.08485, section 4.1).
    "clip_vision_model": VisionEncoder(
        "CLIP", _CLIP_MEAN, _CLIP_STD, Resampling.BICUBIC, feature_layer=-2, class_tokens=1
    ),
    "dinov2": VisionEncoder("DINOv2", _IMAGENET_MEAN, _IMAGENET_STD, Resampling.BICUBIC, class_tokens=1, any_size=True),
    "dinov2_with_registers": VisionEncoder(
        "DINOv2 with registers", _IMAGENET_MEAN, _IMAGENET_STD, Resampling.BICUBIC, class_tokens=1, any_size=True
    ),
    "dinov3_vit": VisionEncoder(
        "DINOv3 ViT", _IMAGENET_MEAN, _IMAGENET_STD, Resampling.BILINEAR, class_tokens=1, any_size=True
    ),
}

_REMEDIES = {
    "siglip2_vision_model": "its patches come in any number (NaFlex); take a SigLIP 2 checkpoint of one resolution, "
    "e.g. google/siglip2-base-patch16-224",
    "dinov3_convnext": "it has no patch tokens; take a DINOv3 ViT, e.g. facebook/dinov3-vits16-pretrain-lvd1689m",
}


def vision_encoder(vision_config: Any) -> VisionEncoder:
    """The entry of a vision config's type; ValueError if there is none."""
    kind = vision_config.model_type
    if kind not in VISION_ENCODERS:
        remedy = _REMEDIES.get(kind, f"take one of {', '.join(VISION_ENCODERS)}")
        raise ValueError(f"the vision encoder type {kind!r} is not supported: {remedy}.")
    return VISION_ENCODERS[kind]


def prefix_tokens(vision_config: Any) -> int:
    """How many tokens (class token, registers) the encoder puts before the patch grid."""
    return vision_encoder(vision_config).class_tokens + getattr(vision_config, "num_register_tokens", 0)


def image_side(vision_config: Any, image_size: int | None = None) -> int:
    """Pixels a side that the encoder is given: `image_size`, or what its own config says.

    Raises:
        ValueError: the config has no square size, or the encoder cannot take another one than its own.
    """
    own = _square(vision_config, "image_size")
    if image_size is None or image_size == own:
        return own
    encoder = vision_encoder(vision_config)
    if not encoder.any_size:
        raise ValueError(
            f"image_size {image_size}: {encoder.title} takes pictures of its own size only, here {own} pixels a side: "
            "leave image_size out, or take a checkpoint of that size."
        )
    if image_size < (patch := _square(vision_config, "patch_size")):
        raise ValueError(f"image_size {image_size} is below one patch ({patch} pixels).")
    return image_size


def grid_side(vision_config: Any, image_size: int | None = None) -> int:
    """Patches a side; a rest of the picture smaller than a patch is not seen by the encoder."""
    return image_side(vision_config, image_size) // _square(vision_config, "patch_size")


def check_feature_layer(vision_config: Any, layer: int) -> None:
    """Raises ValueError if the encoder has no such hidden state (0 is the embedding)."""
    layers = vision_config.num_hidden_layers
    if not -layers - 1 <= layer <= layers:
        raise ValueError(
            f"vision_feature_layer {layer}: the vision encoder has {layers} layers, so it must be between "
            f"{-layers - 1} and {layers}."
        )


def image_processor(
    vision_config: Any, image_size: int | None = None, given: Mapping[str, Any] | None = None
) -> SiglipImageProcessorPil:
    """Whole pictures, scaled to the encoder's square and normalised as it was trained.

    Nothing is cropped, whatever a checkpoint's own processor does: what is cut off cannot be asked about. One class
    serves all encoders, as they differ in numbers only.

    Args:
        given: the content of the checkpoint's preprocessor_config.json; its numbers win over the type's.
    """
    encoder, side, given = vision_encoder(vision_config), image_side(vision_config, image_size), given or {}
    numbers: dict[str, Any] = {
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
        "resample": encoder.resample,
    }
    kept = ("image_mean", "image_std", "resample", "rescale_factor", "do_rescale", "do_normalize")
    numbers |= {key: given[key] for key in kept if given.get(key) is not None}
    return SiglipImageProcessorPil(size={"height": side, "width": side}, do_convert_rgb=True, **numbers)


def given_side(given: Mapping[str, Any]) -> int | None:
    """Pixels a side that a checkpoint's preprocessor_config.json ends with; None if it says nothing of a square."""
    size = given.get("crop_size") if given.get("do_center_crop") else given.get("size")
    if isinstance(size, Mapping):
        sides = {value for key, value in size.items() if key in ("height", "width", "shortest_edge") and value}
        return sides.pop() if len(sides) == 1 else None
    return size if isinstance(size, int) else None


def _square(vision_config: Any, key: str) -> int:
    value = getattr(vision_config, key, None)
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    if len(set(sides)) != 1 or not isinstance(sides[0], int):
        raise ValueError(f"the vision config has {key} {value!r}: a square one is needed, one integer.")
    return sides[0]
