"""The released AKI checkpoint: every golden number of the reference, there and back, and what can go wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from aki_checkpoint import IMAGE, REFERENCE, TOKENS_PER_IMAGE, case, expand, write_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from mutua.attention import BACKENDS, flex, get_policy
from mutua.attention.oracle import allowed_mask
from mutua.convert import aki
from mutua.convert.aki import convert
from mutua.convert.aki_export import export
from mutua.convert.aki_format import ADDED_ROWS, SYSTEM_MESSAGE, AkiError
from mutua.convert.tensor_files import TensorFilesError
from mutua.folders import FolderError
from mutua.models import MutuaForConditionalGeneration
from mutua.roles import TokenRoles

CASES = ("a_image_sft", "a2_no_assistant", "a3_image_after_question", "b_text_only", "e_batch2_images")
CLOSE = {"atol": 1e-4, "rtol": 0.0}
SUBSET = load_file(Path(aki_data := Path(__file__).parents[1] / "data/aki") / "vocab_subset.safetensors")[
    "vocab_subset"
]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("aki") / "released", tokenizer=True)


@pytest.fixture(scope="module")
def converted(released: Path) -> Path:
    return convert(released, released.parent / "converted")


@pytest.fixture(scope="module")
def model(converted: Path) -> MutuaForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(converted).eval()


@pytest.fixture(scope="module")
def oracle(converted: Path) -> MutuaForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(converted, attn_implementation="mutua_reference").eval()


def run(model: MutuaForConditionalGeneration, inputs: dict[str, Tensor], **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs)


def assert_logits(logits_BNV: Tensor, golden: dict[str, Tensor], real_BN: Tensor) -> None:
    assert logits_BNV.shape[-1] == REFERENCE["total_vocab"]
    torch.testing.assert_close(logits_BNV[..., SUBSET][real_BN], golden["logits_sub"][real_BN], **CLOSE)
    torch.testing.assert_close(logits_BNV.logsumexp(-1)[real_BN], golden["logits_lse"][real_BN], **CLOSE)
    torch.testing.assert_close(logits_BNV.norm(dim=-1)[real_BN], golden["logits_l2"][real_BN], atol=1e-3, rtol=0)
    assert torch.equal(logits_BNV.argmax(-1)[real_BN], golden["logits_argmax"][real_BN])


def test_vision_features_and_connector(model):
    golden = case("d_vision")
    with torch.no_grad():
        features = model.model.get_vision_features(golden["pixels"].flatten(0, 2))
        torch.testing.assert_close(features, golden["features"].flatten(0, 2), **CLOSE)
        tokens = model.get_image_features(golden["pixels"].flatten(0, 2)).pooler_output
        torch.testing.assert_close(tokens, golden["vision_tokens"].flatten(0, 1), **CLOSE)
        random = model.model.connector(golden["rand_features"].flatten(0, 2))
        torch.testing.assert_close(random, golden["rand_tokens"].flatten(0, 1), **CLOSE)
        frames = model.model.connector(golden["rand_features_2frames"].flatten(0, 1).flatten(1, 2))
        torch.testing.assert_close(frames, golden["rand_tokens_2frames"].flatten(0, 1), **CLOSE)


@pytest.mark.parametrize("name", [name for name in CASES if name != "b_text_only"])
def test_the_mask_cell_for_cell(name):
    golden = case(name)
    inputs = expand(golden)
    allowed = allowed_mask(get_policy("mma"), TokenRoles.from_codes(inputs["token_type_ids"]))
    real = inputs["attention_mask"].bool()
    expected = golden["mask4d"][:, 0].bool()
    assert torch.equal(allowed[real], expected[real])  # rows of padding mean nothing


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_logits_and_loss(model, name):
    golden = case(name)
    inputs = expand(golden)
    labels = golden["mm_labels"].clone()
    labels[:, 0] = -100  # the first token is nobody's target
    out = run(model, inputs, labels=labels, output_hidden_states=True)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(out.hidden_states[-1][real], golden["hidden_final"][real], **CLOSE)
    assert_logits(out.logits, golden, real)
    torch.testing.assert_close(out.loss, golden["loss"], **CLOSE)


def test_every_layer_and_its_attention_weights(oracle):
    golden = case("a_image_sft")
    out = run(oracle, expand(golden), output_hidden_states=True, output_attentions=True)
    for layer in range(2):
        torch.testing.assert_close(out.hidden_states[layer], golden[f"hidden_{layer}"], **CLOSE)
        torch.testing.assert_close(out.attentions[layer], golden[f"attn_layer{layer}"], **CLOSE)
    torch.testing.assert_close(out.hidden_states[0], golden["mm_embeds"], **CLOSE)


@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=pytest.mark.slow if name == flex.NAME else ()) for name in BACKENDS],  # it compiles
)
def test_every_backend_gives_the_golden_logits(converted, backend):
    model = AutoModelForImageTextToText.from_pretrained(converted, attn_implementation=backend).eval()
    for name in CASES:
        golden = case(name)
        inputs = expand(golden)
        assert_logits(run(model, inputs).logits, golden, inputs["attention_mask"].bool())


def test_longrope(released, tmp_path):
    source = write_checkpoint(tmp_path / "longrope", longrope=True)
    golden = case("f_rope_su_short")
    model = AutoModelForImageTextToText.from_pretrained(convert(source, tmp_path / "out")).eval()
    inputs = expand(golden)
    assert_logits(run(model, inputs).logits, golden, inputs["attention_mask"].bool())


def generate(model: MutuaForConditionalGeneration, inputs: dict[str, Tensor], **kwargs) -> Tensor:
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False, **kwargs)
    return tokens[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("backend", ["mutua_auto", "mutua_sdpa", "mutua_split", "mutua_reference"])
def test_the_twelve_greedy_tokens(converted, backend):
    model = AutoModelForImageTextToText.from_pretrained(converted, attn_implementation=backend).eval()
    golden = case("c_generate_image")
    inputs = expand(golden)
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(out.sequences[:, inputs["input_ids"].shape[1] :], golden["sequences"])
    scores = torch.cat(out.logits)
    torch.testing.assert_close(scores[:, SUBSET], golden["scores_sub"], **CLOSE)
    torch.testing.assert_close(scores.logsumexp(-1), golden["scores_lse"], **CLOSE)


# What the reference cannot do.


def left_padded(inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    padded = {
        key: torch.nn.functional.pad(inputs[key], (count, 0), value=32011 if key == "input_ids" else 0)
        for key in ("input_ids", "attention_mask")
    }
    codes = torch.nn.functional.pad(TokenRoles.from_codes(inputs["token_type_ids"]).to_codes(), (count, 0))
    return {**inputs, **padded, "token_type_ids": codes}


def test_left_padding_and_no_attention_mask(model):
    golden = case("c_generate_image")
    inputs = expand(golden)
    assert torch.equal(generate(model, left_padded(inputs, 5)), golden["sequences"])
    bare = {key: value for key, value in inputs.items() if key != "attention_mask"}
    assert torch.equal(generate(model, bare), golden["sequences"])


def test_beams_find_a_likelier_answer_than_greed(model):
    golden = case("c_generate_image")
    inputs = expand(golden)
    beams = model.generate(
        **inputs, max_new_tokens=4, num_beams=3, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    new = beams.sequences[:, inputs["input_ids"].shape[1] :]

    def likelihood(tokens: Tensor) -> float:
        ids = torch.cat([inputs["input_ids"], tokens], 1)
        codes = torch.cat([inputs["token_type_ids"], torch.ones_like(tokens)], 1)
        logits = run(model, {"input_ids": ids, "token_type_ids": codes, "pixel_values": inputs["pixel_values"]}).logits
        said = logits[:, -tokens.shape[1] - 1 : -1].log_softmax(-1).gather(-1, tokens[..., None])
        return float(said.sum())

    assert float(beams.sequences_scores[0]) * new.shape[1] == pytest.approx(likelihood(new), abs=1e-3)
    assert likelihood(new) >= likelihood(golden["sequences"][:, :4])


@pytest.mark.parametrize("backend", ["mutua_sdpa", "mutua_split"])
def test_chats_of_different_lengths_with_several_images(converted, backend):
    """Through the released chat format: a batch answers as each of its rows does alone."""
    model = AutoModelForImageTextToText.from_pretrained(converted, attn_implementation=backend).eval()
    processor = AutoProcessor.from_pretrained(converted)
    pictures = [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (70, 50, 3), dtype=np.uint8)) for i in range(3)
    ]
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "what?"}]}],
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": pictures[1]},
                    {"type": "text", "text": "and "},
                    {"type": "image", "image": pictures[2]},
                    {"type": "text", "text": "how do the two differ?"},
                ],
            }
        ],
        [{"role": "user", "content": "no picture"}],
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    together = generate(model, processor.apply_chat_template(chats, **options))
    for row, chat in enumerate(chats):
        assert torch.equal(generate(model, processor.apply_chat_template(chat, **options))[0], together[row])


def test_the_released_chat_format_and_image_processing(converted):
    processor = AutoProcessor.from_pretrained(converted)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8))
    chat = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "what?"}]}]
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == (
        f"<s> <|system|>\n{SYSTEM_MESSAGE}<|end|>\n<|user|>\n<image>\nwhat?<|end|>\n<|assistant|>\n"
    )
    out = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    roles = TokenRoles.from_codes(out["token_type_ids"])
    assert out["input_ids"][0, 0] == 1
    assert (out["input_ids"] == 1).sum() == 1  # not added a second time
    assert (out["input_ids"] == IMAGE).sum() == TOKENS_PER_IMAGE
    assert out["input_ids"][0, -1] == 32001
    assert (roles.block_BN == 0).all()
    resized = np.asarray(picture.resize((56, 56), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    expected = torch.from_numpy((resized - 0.5) / 0.5).permute(2, 0, 1)[None]
    torch.testing.assert_close(out["pixel_values"], expected, atol=1e-6, rtol=0)


# There and back, and what can go wrong.


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("files", [1, 3])
def test_exports_bit_for_bit(tmp_path, files):
    source = write_checkpoint(tmp_path / "released", files=files)
    back = export(convert(source, tmp_path / "converted"), tmp_path / "back")
    assert digests(back) == digests(source)
    assert (back / "config.json").is_file()


def test_a_model_of_another_policy_is_not_exported(converted, tmp_path):
    """The released code would run a causal control under MMA."""
    twin = AutoModelForImageTextToText.from_pretrained(converted)
    twin.config.attention_policy = "causal"
    twin.save_pretrained(tmp_path / "twin")
    with pytest.raises(AkiError, match="under policy 'causal', and the released code applies 'mma'"):
        export(tmp_path / "twin", tmp_path / "back", converted)
    assert not (tmp_path / "back").exists()


def test_what_was_released_beside_the_weights_comes_back(released, tmp_path):
    source = tmp_path / "released"
    shutil.copytree(released, source)
    for name in ("README.md", "LICENSE", ".gitattributes", "modeling.py"):
        (source / name).write_text(name)
    back = export(convert(source, tmp_path / "converted"), tmp_path / "back")
    there = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    assert "tokenizer.json" in there
    assert {path.name: path.read_bytes() for path in back.iterdir()} == there


@pytest.mark.parametrize("name", ["../out.safetensors", "/tmp/out.safetensors", "out.txt"])
def test_a_layout_names_files_of_its_folder_alone(converted, tmp_path, name):
    shutil.copytree(converted, tmp_path / "converted")
    layout = tmp_path / "converted/aki/layout.json"
    (content,) = json.loads(layout.read_text()).values()
    layout.write_text(json.dumps({name: content}))
    with pytest.raises(AkiError, match="which is no safetensors file of this folder"):
        export(tmp_path / "converted", tmp_path / "back")
    assert not (tmp_path / "out.safetensors").exists()


def test_shards_are_read_back(released, tmp_path, monkeypatch, model):
    monkeypatch.setattr(aki, "_SHARD_BYTES", 1 << 20)
    seen: list[tuple[int, int]] = []
    target = convert(released, tmp_path / "sharded", progress=lambda done, total: seen.append((done, total)))
    assert len(list(target.glob("model-*.safetensors"))) > 3
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    again = AutoModelForImageTextToText.from_pretrained(target)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert digests(export(target, tmp_path / "back"))["model.safetensors"] == digests(released)["model.safetensors"]


def test_a_model_trained_on_goes_back_with_its_new_weights(converted, released, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(converted)
    with torch.no_grad():
        model.lm_head.bias[32013] += 1
        model.model.connector.latents[0] *= 2
    model.save_pretrained(tmp_path / "trained")
    with pytest.raises(AkiError, match=r"aki is missing: .* --converted"):
        export(tmp_path / "trained", tmp_path / "back")
    back = load_file(export(tmp_path / "trained", tmp_path / "back", converted) / "model.safetensors")
    before = load_file(released / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], back[name])}
    assert changed == {"lang_model.lm_head.additional_fc.bias", "vision_tokenizer.latents"}
    assert before.keys() == back.keys()


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in {**config, **changes}.items() if v is not None}))


def edit_weights(folder: Path, **changes: Tensor | None) -> None:
    tensors = {**load_file(folder / "model.safetensors"), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lost_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config.json cannot be read \(No such file"),
        (lambda f: (f / "config.json").write_text("{"), r"config.json is no config of a released AKI checkpoint"),
        (lambda f: edit_config(f, initial_tokenizer_len=None), r"initial_tokenizer_len: Field required"),
        (
            lambda f: edit_config(f, lang_model_path="no/where"),
            r"no configuration at 'no/where': with --language-model",
        ),
        (lambda f: edit_config(f, initial_tokenizer_len=40000), r"the first needs 40000 rows at least"),
        (lambda f: edit_weights(f, **{"vision_tokenizer.norm.bias": None}), r"1 missing: vision_tokenizer\.norm\.bias"),
        (lambda f: edit_weights(f, extra=torch.zeros(1)), r"1 unknown: extra"),
        (
            lambda f: edit_weights(f, **{"vision_tokenizer.norm.bias": torch.zeros(31)}),
            r"vision_tokenizer\.norm\.bias has shape \(31,\), but the configs make it \(32,\)",
        ),
        (cut_short, r"model.safetensors is damaged or cut short"),
        (only_a_pickle, r"only pytorch_model.bin: a pickle can run code"),
        (lost_shard, r"names files that are not there: model-00002"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text("[]"),
            r"model.safetensors.index.json is damaged",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}"), r"its tokenizer files cannot be read"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), r"config.json is no config of a released"),
        (lambda f: edit_config(f, initial_tokenizer_len=0), r"initial_tokenizer_len: Input should be greater than 0"),
        (lambda f: edit_config(f, norm_std=0), r"norm_std: Input should be greater than 0"),
        (lambda f: edit_config(f, pad_token_id=99999), r"pad_token_id 99999 is beyond the 32014 tokens"),
        (lambda f: edit_config(f, n_px=57), r"n_px 57 .* takes pictures of 56 pixels"),
        (
            lambda f: edit_weights(f, **{"vision_tokenizer.norm.bias": torch.zeros(32, dtype=torch.int8)}),
            r"vision_tokenizer.norm.bias is stored as I8",
        ),
        (
            lambda f: (f / "language" / "generation_config.json").write_text("{"),
            r"language: its generation_config.json cannot be read .*not a valid JSON .*with --language-model",
        ),
        (lambda f: edit_config(f / "vision", hidden_size=0), r"no model can be built"),
        (lambda f: edit_config(f / "vision", hidden_size="abc"), r"vision': with --vision"),
        (lambda f: edit_config(f / "vision", num_attention_heads=0), r"no model can be built .*ZeroDivisionError"),
        (
            lambda f: edit_weights(f, **{ADDED_ROWS["lm_head.bias"]: torch.tensor(1.0)}),
            r"additional_fc.bias \(\) do not make a table",
        ),
    ],
)
def test_a_bad_checkpoint_is_one_error_and_leaves_nothing(released, tmp_path, damage, message):
    source = shutil.copytree(released, tmp_path / "source")
    damage(source)
    with pytest.raises((AkiError, TensorFilesError), match=message):
        convert(source, tmp_path / "target")
    assert not list(tmp_path.glob("target*"))


def test_a_config_class_that_fails_without_a_word(released, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(aki.AutoConfig, "from_pretrained", fail)
    with pytest.raises(AkiError, match=r"no configuration at '.*vision'.*\(AssertionError\)"):
        convert(released, tmp_path / "target")


@pytest.mark.parametrize("option", ["vision_encoder", "language_model"])
def test_a_slip_in_the_name_of_a_folder_is_not_asked_of_the_hub(released, tmp_path, monkeypatch, option):
    def read(name: str, **options: object) -> object:
        return pytest.fail("the hub was asked") if name == "models/none" else original(name, **options)

    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    original = aki.AutoConfig.from_pretrained
    monkeypatch.setattr(aki.AutoConfig, "from_pretrained", read)
    with pytest.raises(AkiError, match=r"no configuration at 'models/none': with --.* \(there is no such folder\)"):
        convert(released, tmp_path / "target", **{option: "models/none"})


def test_a_generation_config_that_is_out_of_reach_is_not_taken_for_none(released, tmp_path, monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(aki, "cached_file", offline)
    with pytest.raises(AkiError, match=r"its generation_config.json cannot be read \(We couldn't connect to the hub\)"):
        convert(released, tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(released, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(aki, "save_file", full)
    with pytest.raises(FolderError, match="No space left on device"):
        convert(released, tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_an_existing_target_is_kept(released, converted):
    before = digests(converted)
    with pytest.raises(AkiError, match="exists already"):
        convert(released, converted)
    with pytest.raises(AkiError, match="exists already"):
        export(converted, released)
    assert digests(converted) == before


def test_a_tokenizer_of_another_model_is_refused(released, tmp_path):
    source = shutil.copytree(released, tmp_path / "source")
    text = (source / "tokenizer.json").read_text().replace("<image>", "<picture>")
    (source / "tokenizer.json").write_text(text)
    with pytest.raises(AkiError, match="gives <image> the id"):
        convert(source, tmp_path / "target")
