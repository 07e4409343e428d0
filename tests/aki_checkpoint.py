"""A checkpoint in the released AKI format at a tiny size: weights made from their names."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipVisionConfig

from mutua.roles import NONE, Modality, TokenRoles

DATA = Path(__file__).parent / "data" / "aki"
REFERENCE = json.loads((DATA / "config.json").read_text())
IMAGE, ASSISTANT, TOKENS_PER_IMAGE = 32012, 32001, 6


def _weight(key: str, shape: list[int]) -> Tensor:
    z = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key == "vision_tokenizer.latents" or key.endswith("head.probe"):
        weight = z
    elif key.endswith(("embed_tokens.weight", "additional_embedding.weight", "position_embedding.weight")):
        weight = 0.5 * z
    elif len(shape) == 1:
        weight = 1 + 0.1 * z if key.endswith("weight") else 0.1 * z
    else:
        weight = (2 if "lm_head" in key or "qkv_proj" in key else 1) * z / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(weight.astype(np.float32))


def weights() -> dict[str, Tensor]:
    """All tensors, checked against the digests that the reference recorded."""
    manifest = json.loads((DATA / "state_dict_manifest.json").read_text())
    tensors = {key: _weight(key, entry["shape"]) for key, entry in manifest.items()}
    for key, tensor in tensors.items():
        assert hashlib.sha256(tensor.numpy().tobytes()).hexdigest() == manifest[key]["sha256"], key
    return tensors


def write_checkpoint(folder: Path, files: int = 1, tokenizer: bool = False, longrope: bool = False) -> Path:
    """The folder as it would be published, with the configs of its two parts in folders of their own."""
    folder.mkdir(parents=True)
    SiglipVisionConfig(**REFERENCE["vision_config"]).save_pretrained(folder / "vision")
    text = dict(REFERENCE["text_config"])
    if longrope:
        text |= {
            "rope_scaling": {"type": "longrope", **REFERENCE["rope_su_variants"]},
            "max_position_embeddings": 131072,
        }
    (folder / "language").mkdir()
    (folder / "language" / "config.json").write_text(json.dumps({"model_type": "phi3", **text}))
    released = {"vision_encoder_path": "vision", "lang_model_path": "language", "n_px": 56, "norm_mean": 0.5}
    released |= {"norm_std": 0.5} | {key: REFERENCE[key] for key in ("num_vision_tokens", "initial_tokenizer_len")}
    (folder / "config.json").write_text(json.dumps({**released, "pad_token_id": REFERENCE["pad_token_id"]}))
    tensors = weights()
    for nth in range(files):
        name = "model.safetensors" if files == 1 else f"model-{nth + 1:05d}-of-{files:05d}.safetensors"
        save_file({key: tensors[key] for key in list(tensors)[nth::files]}, folder / name, metadata={"format": "pt"})
    if tokenizer:
        make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A vocabulary with Phi-3's special tokens at their ids, and one token for each other character."""
    special = {"<s>": 1, "<|endoftext|>": 32000, "<|assistant|>": ASSISTANT, "<|system|>": 32006, "<|end|>": 32007}
    special |= {"<|user|>": 32010, "<|pad|>": 32011, "<image>": IMAGE, "<|endofchunk|>": 32013}
    characters = {chr(code): code for code in range(10, 127)}
    filler = {f"<unused{nth}>": nth for nth in range(32014) if nth not in {*special.values(), *characters.values()}}
    tokenizer = Tokenizer(models.WordLevel({**special, **characters, **filler}, unk_token="<unused0>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    # As in the published tokenizer, a role's token swallows the line break behind it.
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, rstrip=token.startswith("<|")) for token in special if token != "<image>"]
        + [AddedToken("<image>", special=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|endoftext|>", pad_token="<|pad|>", padding_side="left"
    )


def case(name: str) -> dict[str, Tensor]:
    """The golden values of one case."""
    return load_file(DATA / f"{name}.safetensors")


def expand(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a case as our model takes them: one placeholder a visual token, and the roles.

    Replies start after the first `<|assistant|>`; in a caption, which has none, after the image.
    """
    ids, masks, responses = [], [], []
    for row, mask in zip(golden["lang_x"].tolist(), golden["attention_mask"].tolist(), strict=True):
        start = row.index(ASSISTANT) if ASSISTANT in row else row.index(IMAGE)
        flat = [
            (token, seen, place > start)
            for place, (token, seen) in enumerate(zip(row, mask, strict=True))
            for _ in range(TOKENS_PER_IMAGE if token == IMAGE else 1)
        ]
        for into, values in zip((ids, masks, responses), zip(*flat, strict=True), strict=True):
            into.append(values)
    input_ids, attention_mask = torch.tensor(ids), torch.tensor(masks)
    roles = TokenRoles.from_responses(
        torch.tensor(responses) & (attention_mask == 1),
        torch.where(input_ids == IMAGE, int(Modality.IMAGE), int(Modality.TEXT)),
        torch.where(attention_mask == 1, 0, NONE),
        begins_item_BN=(input_ids == IMAGE) & ((input_ids == IMAGE).cumsum(-1) % TOKENS_PER_IMAGE == 1),
    )
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": roles.to_codes()}
    if "vision_x" in golden:
        inputs["pixel_values"] = golden["vision_x"].flatten(0, 2)
    return inputs
