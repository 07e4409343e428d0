"""The released AKI checkpoint (`Sony/AKI-4B-phi-3.5-mini`) as a model of ours, bit for bit.

Names differ, and so does the table of tokens (`aki_format.py`); what ours has no use for is kept in the folder `aki/`
beside the model, so that no file beside the weights is lost on the way back (`aki_export.py`), but for what lies in
folders, and other copies of the weights. Tensors pass through one shard at a time.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from mutua.composition.tokenizer import IMAGE
from mutua.convert.aki_format import (
    ADDED_ROWS,
    ASIDE,
    CHAT_TEMPLATE,
    CONFIG,
    EMBED,
    END,
    LAYOUT,
    OTHERS,
    TURNS,
    UNUSED,
    AkiConfig,
    AkiError,
    read_config,
    refuse_difference,
    released_name,
)
from mutua.convert.tensor_files import TensorFiles
from mutua.folders import whole_folder
from mutua.models.configuration import MutuaConfig
from mutua.models.generation_config import reply_config
from mutua.models.model_folder import first_line, may_be_hub_id
from mutua.models.modeling import MutuaForConditionalGeneration
from mutua.models.processing import MutuaProcessor
from mutua.models.vision import image_processor, image_side

Progress = Callable[[int, int], None]

_RESAMPLER_HEAD_DIM = 64  # the released code's default, and no tensor tells it
_SHARD_BYTES = 1 << 30
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".msgpack", ".h5")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # as safetensors and as torch call them


def convert(
    source: str | Path,
    target: str | Path,
    vision_encoder: str | None = None,
    language_model: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the released checkpoint in `source` as a Mutua model (policy `mma`) into the new folder `target`.

    Args:
        source: a folder as published: `config.json`, safetensors files, tokenizer files if there are any.
        target: a folder that does not exist yet; with a tokenizer it loads with `AutoProcessor`, too.
        vision_encoder, language_model: folder or hub id of a `config.json`, in place of what the released config names.
            Only configurations are read from there, never weights.
        progress: called with (bytes written, bytes in all).

    Raises:
        AkiError: a key is missing, unknown or of the wrong shape, a file is damaged, a config cannot be had.
        FolderError: the disk is full. In neither case is anything left at `target`.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise AkiError(f"{target} exists already: name a new folder, or remove it")
    released, files = read_config(source), TensorFiles.of(source)
    vision = vision_encoder or _folder_or_id(released.vision_encoder_path, source)
    language = language_model or _folder_or_id(released.lang_model_path, source)
    config = _our_config(
        released,
        files,
        _part_config(vision, "--vision-encoder", "vision_config"),
        _part_config(language, "--language-model", "text_config"),
    )
    origin = _find_all(config, released, files, source)
    own = _own_generation_config(language, config.text_config)

    with whole_folder(target) as partial:
        _write_shards(partial, released.initial_tokenizer_len, files, origin, progress)
        config.save_pretrained(partial)
        processor = _processor(source, released, config)
        if processor is not None:
            processor.save_pretrained(partial)
        _generation_config(own, config, processor).save_pretrained(partial)
        aside = partial / ASIDE
        (aside / OTHERS).mkdir(parents=True)
        for path in source.iterdir():
            if path.is_file() and path.suffix not in _WEIGHTS and path.name != CONFIG:
                shutil.copyfile(path, aside / OTHERS / path.name)
        shutil.copyfile(source / CONFIG, aside / CONFIG)
        (aside / LAYOUT).write_text(json.dumps(files.metadata()), encoding="utf-8")
        kept = released.initial_tokenizer_len
        rows = files.read([origin[name] for name in ADDED_ROWS])
        save_file({name: tensor[kept:].clone() for name, tensor in rows.items()}, aside / UNUSED)
    return target


def _folder_or_id(name: str, source: Path) -> str:
    """A path in the released config may be relative to the folder it stands in."""
    return str(source / name) if (source / name).is_dir() else name


def _part_config(name: str, option: str, part: str) -> PreTrainedConfig:
    """The configuration of the vision encoder or the language model, out of a composite one where it is part of one."""
    try:
        if not Path(name).is_dir() and not may_be_hub_id(name, bare=True):
            raise FileNotFoundError("there is no such folder")
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # whatever the checks of some hundred config classes raise
        raise AkiError(
            f"no configuration at {name!r}: with {option}, give a folder with its config.json or a hub id "
            f"that this machine can reach ({first_line(error)})"
        ) from error
    return getattr(config, part, config)


def _our_config(
    released: AkiConfig, files: TensorFiles, vision: PreTrainedConfig, text: PreTrainedConfig
) -> MutuaConfig:
    """Sizes of connector and token table are those of the tensors."""

    def rows(name: str) -> int:
        if name not in files.tensors:
            raise AkiError(f"the checkpoint has no {name!r}: is it a released AKI checkpoint, with all of its files?")
        if not files.tensors[name].shape:
            raise AkiError(f"{files.tensors[name].file}: {name} is a single number: fetch the file again")
        return files.tensors[name].shape[0]

    if released.n_px != image_side(vision):
        raise AkiError(
            f"n_px {released.n_px} in the released {CONFIG}, but the vision encoder takes pictures of "
            f"{image_side(vision)} pixels a side: is --vision-encoder right?"
        )
    text.vocab_size = released.initial_tokenizer_len + rows(ADDED_ROWS[EMBED])
    if released.pad_token_id >= text.vocab_size:
        raise AkiError(f"pad_token_id {released.pad_token_id} is beyond the {text.vocab_size} tokens of the checkpoint")
    text.pad_token_id = released.pad_token_id
    text.tie_word_embeddings = False
    layers = {m[1] for name in files.tensors if (m := re.match(r"vision_tokenizer\.layers\.(\d+)\.", name))}
    to_q, up = (f"vision_tokenizer.layers.0.{part}.weight" for part in ("0.to_q", "1.1"))
    dtypes = [stored.dtype for stored in files.tensors.values()]
    return MutuaConfig(
        vision_config=vision,
        text_config=text,
        attention_policy="mma",
        connector="resampler",
        resampler_latents=released.num_vision_tokens,
        resampler_depth=len(layers),
        resampler_heads=rows(to_q) // _RESAMPLER_HEAD_DIM,
        resampler_head_dim=_RESAMPLER_HEAD_DIM,
        resampler_ff_mult=rows(up) // max(1, rows("vision_tokenizer.norm.weight")),
        image_token_id=released.initial_tokenizer_len,  # the first of the added tokens
        lm_head_bias=True,
        dtype=_DTYPES.get(max(set(dtypes), key=dtypes.count), "float32"),
        architectures=[MutuaForConditionalGeneration.__name__],
    )


def _find_all(config: MutuaConfig, released: AkiConfig, files: TensorFiles, source: Path) -> dict[str, str]:
    """The released name of every tensor of the model; each is there in its shape, and nothing else is."""
    try:
        with torch.device("meta"):
            expected = {n: tuple(t.shape) for n, t in MutuaForConditionalGeneration(config).state_dict().items()}
    except Exception as error:  # whatever the models raise whose sizes make no sense
        raise AkiError(
            f"{source}: no model can be built from the configs of its vision encoder and language model "
            f"({type(error).__name__}: {error}): are --vision-encoder and --language-model right?"
        ) from error
    origin = {ours: released_name(ours) for ours in expected}
    refuse_difference({*origin.values(), *ADDED_ROWS.values()}, set(files.tensors), source)
    kept = released.initial_tokenizer_len
    for stored_name, stored in files.tensors.items():
        if stored.dtype not in _DTYPES:
            raise AkiError(f"{stored.file}: {stored_name} is stored as {stored.dtype}: take it before it was quantised")
    for ours, shape in expected.items():
        found = files.tensors[origin[ours]].shape
        if ours in ADDED_ROWS:
            added = files.tensors[ADDED_ROWS[ours]].shape
            is_table = len(found) == len(added) == len(shape)
            if not is_table or found[0] < kept or found[1:] != shape[1:] or (kept + added[0], *added[1:]) != shape:
                raise AkiError(
                    f"{source}: {origin[ours]} {found} and {ADDED_ROWS[ours]} {added} do not make a table of {shape}: "
                    f"the first needs {kept} rows at least (initial_tokenizer_len)"
                )
        elif found != shape:
            raise AkiError(
                f"{source}: {origin[ours]} has shape {found}, but the configs make it {shape}: are --vision-encoder "
                "and --language-model (or the paths in config.json) those that the checkpoint was trained with?"
            )
    return origin


def _write_shards(
    folder: Path, kept: int, files: TensorFiles, origin: dict[str, str], progress: Progress | None
) -> None:
    """The weights under our names, `_SHARD_BYTES` at a time, as `from_pretrained` reads them."""
    sizes = {
        ours: files.tensors[name].bytes + (files.tensors[ADDED_ROWS[ours]].bytes if ours in ADDED_ROWS else 0)
        for ours, name in origin.items()
    }
    shards: list[list[str]] = [[]]
    for ours in sorted(origin):
        if shards[-1] and sum(sizes[name] for name in shards[-1]) + sizes[ours] > _SHARD_BYTES:
            shards.append([])
        shards[-1].append(ours)

    written, total = 0, sum(sizes.values())
    weight_map: dict[str, str] = {}
    for nth, names in enumerate(shards, start=1):
        file_name = "model.safetensors" if len(shards) == 1 else f"model-{nth:05d}-of-{len(shards):05d}.safetensors"
        stored = files.read(
            [origin[name] for name in names] + [ADDED_ROWS[name] for name in names if name in ADDED_ROWS]
        )
        tensors = {
            name: torch.cat([stored[origin[name]][:kept], stored[ADDED_ROWS[name]]])
            if name in ADDED_ROWS
            else stored[origin[name]]
            for name in names
        }
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file_name)
        written += sum(sizes[name] for name in names)
        if progress is not None:
            progress(written, total)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _processor(source: Path, released: AkiConfig, config: MutuaConfig) -> MutuaProcessor | None:
    """Image processing and chat format of the released code; None where the checkpoint has no tokenizer."""
    if not any((source / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes of some dozen parsers
        raise AkiError(
            f"{source}: its tokenizer files cannot be read ({type(error).__name__}: {error}): fetch them again"
        ) from error
    found = tokenizer.convert_tokens_to_ids(IMAGE)
    if found != config.image_token_id:
        raise AkiError(
            f"{source}: the tokenizer gives {IMAGE} the id {found}, but initial_tokenizer_len says "
            f"{config.image_token_id}: tokenizer and checkpoint do not belong together"
        )
    return MutuaProcessor(
        image_processor=image_processor(
            config.vision_config,
            released.n_px,
            {"image_mean": [released.norm_mean] * 3, "image_std": [released.norm_std] * 3},
        ),
        tokenizer=tokenizer,
        num_image_tokens=config.num_image_tokens,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def _own_generation_config(language: str, config: PreTrainedConfig) -> GenerationConfig:
    """The language model's, which knows the tokens that end a reply; what its config says where it has none."""
    try:
        # None if it has no such file; an error if that cannot be found out.
        path = cached_file(language, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False)
        if path is None:
            return GenerationConfig.from_model_config(config)
        return GenerationConfig.from_pretrained(Path(path).parent, local_files_only=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise AkiError(
            f"{language}: its {GENERATION_CONFIG_NAME} cannot be read ({first_line(error)}): with --language-model, "
            "give a folder where it is whole, or a hub id that this machine can reach"
        ) from error


def _generation_config(
    own: GenerationConfig, config: MutuaConfig, processor: MutuaProcessor | None
) -> GenerationConfig:
    """The language model's `own`, by which no placeholder is said and no turn opened."""
    ends, never = [], [config.image_token_id]
    if processor is not None:
        ends.append(processor.tokenizer.convert_tokens_to_ids(END))
        never += processor.tokenizer.convert_tokens_to_ids(list(TURNS))
    return reply_config(own, pad=config.text_config.pad_token_id, ends=ends, never=never)
