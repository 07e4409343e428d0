"""Every vision encoder inside a composed model: its patch grid, its layer, its pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import picture, user
from tiny_parts import LANGUAGE, VISION, text_tokenizer
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
)
from transformers.models.siglip2 import Siglip2VisionConfig

import mutua
from mutua.api import PACKAGED
from mutua.composition import ComposeError
from mutua.inspection.leakage import prove
from mutua.models import MutuaConfig

ASKED = [user(picture(1), "is it red?")]
GREEDY = {"min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}


def compose(vision, **options):
    torch.manual_seed(0)
    options = {"connector": "mlp", "language": LANGUAGE["llama"](vocab_size=304), **options}
    return mutua.compose(vision=vision, tokenizer=text_tokenizer(), **options)


def encode(processor, messages=ASKED, **options):
    return dict(
        processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **options)
    )


def test_each_patch_is_one_token_row_by_row(by_vision):
    """At the embedding a pixel changes the token of its own patch only: no class token, no register, no other order."""
    tower, config = by_vision.model.model, by_vision.model.config
    own_layer, config.vision_feature_layer = config.vision_feature_layer, 0
    try:
        pixels = torch.randn(1, 3, 32, 32)
        before = tower.get_vision_features(pixels)
        assert before.shape == (1, 16, 32)
        for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
            changed = pixels.clone()
            changed[0, :, row * 8 + 4, column * 8 + 4] += 1
            moved = (tower.get_vision_features(changed) - before)[0].abs().amax(-1) > 1e-6
            assert moved.nonzero()[:, 0].tolist() == [row * 4 + column]
    finally:
        config.vision_feature_layer = own_layer


def test_features_are_those_of_the_encoders_own_layer(by_vision):
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = by_vision.vision(pixel_values=pixels, output_hidden_states=True)
        features = by_vision.model.model.get_vision_features(pixels)
    is_clip = by_vision.model.config.vision_config.model_type == "clip_vision_model"
    expected = out.hidden_states[-2] if is_clip else out.last_hidden_state
    assert torch.equal(features, expected[:, -16:])
    assert expected.shape[1] - 16 == {"dinov2_with_registers": 4, "dinov3_vit": 5, "siglip_vision_model": 0}.get(
        by_vision.model.config.vision_config.model_type, 1
    )


def test_it_answers_the_same_however_it_is_computed_and_after_a_round_trip(by_vision, tmp_path):
    model, processor = by_vision.model, by_vision.processor
    assert processor.num_image_tokens == model.config.num_image_tokens == 16
    inputs = encode(processor, [ASKED, [user("no picture at all, is there?")]], add_generation_prompt=True)
    cached = model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**inputs, **GREEDY, use_cache=False), cached)
    alone = encode(processor, add_generation_prompt=True)
    assert torch.equal(model.generate(**alone, **GREEDY)[0, -5:], cached[0, -5:])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, again = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    inputs = encode(again)
    assert torch.equal(inputs["pixel_values"], encode(processor)["pixel_values"])
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert loaded.config.vision_feature_layer == model.config.vision_feature_layer


def test_the_rule_by_perturbation(by_vision):
    assert prove(by_vision.model, by_vision.processor, conversations=1).holds


def test_rings_take_the_square_that_is_left_without_class_and_registers():
    language = LANGUAGE["llama"](vocab_size=304)
    model, processor = compose(VISION["dinov2_with_registers"](), language=language, attention_policy="concentric")
    assert prove(model, processor, conversations=1).holds


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_a_checkpoint_with_a_text_part_gives_its_vision_part(kind, tmp_path):
    torch.manual_seed(1)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    config_class, model_class = {"siglip": (SiglipConfig, SiglipModel), "clip": (CLIPConfig, CLIPModel)}[kind]
    whole = model_class(config_class(vision_config=VISION[kind]().to_dict(), text_config=text)).eval()
    whole.save_pretrained(tmp_path)
    model, _ = compose(tmp_path, vision_feature_layer=-1)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = whole.vision_model(pixel_values=pixels).last_hidden_state[:, -16:]
        assert torch.equal(model.model.get_vision_features(pixels), expected)
    assert not [name for name, _ in model.named_parameters() if "text_model" in name or ".head." in name]


def test_the_vision_encoder_of_a_model_of_mutua():
    model, processor = compose(PACKAGED)
    trained, its_processor = mutua.load(device="cpu")
    view = processor.image_processor(picture(1), return_tensors="pt")["pixel_values"]
    assert torch.equal(view, its_processor.image_processor(picture(1), return_tensors="pt")["pixel_values"])
    assert torch.equal(model.model.get_vision_features(view), trained.model.get_vision_features(view))


NUMBERS = {
    "siglip": ([0.5] * 3, [0.5] * 3, 3),
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711], 3),
    "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 3),
    "dinov3": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 2),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_pictures_are_normalised_as_the_type_was_trained(kind):
    mean, std, resample = NUMBERS[kind]
    _, processor = compose(VISION[kind]())
    image = picture(1, size=50)
    pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    resized = torch.from_numpy(np.array(image.resize((32, 32), Image.Resampling(resample)))) / 255
    expected = (resized - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(pixels, expected.permute(2, 0, 1).float(), atol=1e-6, rtol=1e-6)


def test_a_folders_own_numbers_win_and_nothing_is_cropped(tmp_path):
    """As DINOv2 is published: position embeddings of another size than the pictures, which its processor crops."""
    config = VISION["dinov2"]()
    config.image_size = 56
    AutoModel.from_config(config).save_pretrained(tmp_path)
    own = {"image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 48}}
    own |= {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "do_rescale": True, "resample": 2}
    own |= {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
    model, processor = compose(tmp_path)
    assert (model.config.image_size, model.config.num_image_tokens) == (32, 16)
    wide = Image.new("RGB", (60, 30))
    wide.paste((255, 255, 255), (0, 0, 4, 30))  # at the rim: a crop of the middle would lose it
    pixels = processor.image_processor(wide, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    assert float(pixels[0, 0, 16, 0]) == pytest.approx((1 - 0.1) / 0.4, abs=0.05)
    assert float(pixels[0, 2, 16, 20]) == pytest.approx((0 - 0.3) / 0.6, abs=1e-5)
    theirs = AutoImageProcessor.from_pretrained(tmp_path, do_center_crop=False, size={"height": 32, "width": 32})
    assert torch.equal(processor.image_processor(wide, return_tensors="pt")["pixel_values"], pixels)
    assert torch.equal(theirs(wide, return_tensors="pt")["pixel_values"], pixels)
    model(**encode(processor))


def test_another_size_for_encoders_that_take_any(tmp_path):
    for kind in ("dinov2", "dinov3"):
        model, processor = compose(VISION[kind](), image_size=48)
        assert model.config.num_image_tokens == processor.num_image_tokens == 36
        assert model(**encode(processor)).logits.shape[1] == encode(processor)["input_ids"].shape[1]
        model.save_pretrained(tmp_path / kind)
        assert MutuaConfig.from_pretrained(tmp_path / kind).num_image_tokens == 36


def test_pictures_of_a_wrong_size_are_refused():
    model, processor = compose(VISION["dinov2"]())
    inputs = encode(processor)
    inputs["pixel_values"] = torch.randn(1, 3, 40, 40)
    with pytest.raises(ValueError, match=r"\(1, 3, 40, 40\), but the model takes \(images, 3, 32, 32\)"):
        model(**inputs)


@pytest.mark.parametrize(
    ("vision", "options", "message"),
    [
        (Siglip2VisionConfig(), {}, r"'siglip2_vision_model' is not supported: .*NaFlex.* of one resolution"),
        (ViTConfig(), {}, "'vit' is not supported: take one of siglip_vision_model, clip_vision_model, dinov2"),
        (VISION["siglip"](), {"image_size": 48}, "image_size 48: SigLIP, SigLIP 2 takes pictures of its own size"),
        (VISION["dinov2"](), {"image_size": 4}, r"image_size 4 is below one patch \(8 pixels\)"),
        (VISION["clip"](), {"vision_feature_layer": -4}, "vision_feature_layer -4: the vision encoder has 2 layers"),
        (VISION["clip"](), {"vision_feature_layer": 3}, "must be between -3 and 2"),
    ],
)
def test_what_cannot_be_right_is_refused(vision, options, message):
    with pytest.raises(ComposeError, match=message):
        compose(vision, **options)
