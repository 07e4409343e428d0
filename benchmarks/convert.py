"""Peak memory and time of converting a checkpoint of AKI-4B's shape (random bf16 weights).

python benchmarks/convert.py                      all 32 layers of Phi-3.5-mini and 27 of SigLIP: 8.6 GB
python benchmarks/convert.py --layers 8           fewer of the language model's
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Phi3Config, SiglipVisionConfig

from mutua.convert.aki import convert
from mutua.convert.aki_export import export
from mutua.convert.aki_format import ADDED_ROWS, released_name
from mutua.memory import peak_memory
from mutua.models import MutuaConfig, MutuaForConditionalGeneration

KEPT, ADDED, ROWS = 32012, 2, 32064


def write_released(folder: Path, layers: int) -> int:
    """A checkpoint as published, one file a gigabyte; returns its bytes."""
    folder.mkdir()
    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )
    text = Phi3Config(num_hidden_layers=layers, max_position_embeddings=131072, sliding_window=262144)
    for part, config in (("vision", vision), ("language", text)):
        config.save_pretrained(folder / part)
    released = {"vision_encoder_path": "vision", "lang_model_path": "language", "num_vision_tokens": 144}
    (folder / "config.json").write_text(json.dumps({**released, "initial_tokenizer_len": KEPT, "pad_token_id": 32011}))
    with torch.device("meta"):
        model = MutuaForConditionalGeneration(MutuaConfig(vision_config=vision, text_config=text, lm_head_bias=True))
    shapes = {released_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for ours, added in ADDED_ROWS.items():
        rows = shapes[released_name(ours)]
        shapes |= {released_name(ours): (ROWS, *rows[1:]), added: (ADDED, *rows[1:])}
    shard: dict[str, torch.Tensor] = {}
    held, total, files = 0, 0, 0
    for name, shape in [*shapes.items(), ("", ())]:
        if held > 1 << 30 or not name:
            save_file(shard, folder / f"model-{files:05d}.safetensors", metadata={"format": "pt"})
            shard, held, files = {}, 0, files + 1
        if name:
            shard[name] = torch.empty(shape, dtype=torch.bfloat16).normal_()
            held += shard[name].nbytes
            total += shard[name].nbytes
    return total


def measured(queue: multiprocessing.Queue, work, *paths: Path) -> None:
    before, started = peak_memory(), time.perf_counter()
    work(*paths)
    queue.put((before, peak_memory(), time.perf_counter() - started))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32, help="of the language model (AKI-4B: 32)")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; needs three times the checkpoint")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, target, back = (Path(folder) / name for name in ("released", "converted", "back"))
        size = write_released(source, args.layers)
        print(f"checkpoint: {size / 1e9:.2f} GB, {args.layers} layers of the language model")
        context = multiprocessing.get_context("spawn")
        for what, work, paths in (("convert", convert, (source, target)), ("export", export, (target, back))):
            queue = context.Queue()
            process = context.Process(target=measured, args=(queue, work, *paths))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{what} ended with exit code {process.exitcode}; see above")
            before, peak, seconds = queue.get()
            print(
                f"{what}: {seconds:.0f} s, peak memory {peak / 1e9:.2f} GB ({before / 1e9:.2f} GB of it Python and "
                f"libraries, mapped files counted) = {peak / size:.2f} x the checkpoint"
            )
        same = all((back / path.name).read_bytes() == path.read_bytes() for path in source.glob("*.safetensors"))
        print(f"exported files equal the originals byte for byte: {same}")


if __name__ == "__main__":
    main()
