"""What `import mutua` costs and what the package carries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mutua
from mutua.api import PACKAGED


def test_import_takes_neither_the_network_nor_what_only_some_commands_need():
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('import mutua opened a connection')\n"
        "socket.socket.connect = refuse\n"
        "import mutua\n"
        "print(sorted({'matplotlib', 'yaml', 'easy_vqa', 'tensorboard', 'pydantic', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("[]", "['yaml']"), "yaml comes with huggingface_hub"


def test_the_packaged_model_is_small_and_safe():
    files = list(PACKAGED.rglob("*"))
    assert sum(file.stat().st_size for file in files) <= 12 * 2**20
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "recipe.yaml", "run.json"} <= {
        file.name for file in files
    }
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".pickle")]


def test_the_packaged_model_is_what_load_gives():
    model, processor = mutua.load()
    assert model.config.attention_policy == "mma"
    assert not model.training
    assert processor.num_image_tokens == model.config.num_image_tokens


def test_the_tree_keeps_its_layers():
    """Imports run downward, as docs and DESIGN have it: roles <- attention <- chat <- models <- ... <- cli."""
    layers = (
        "roles images folders attention chat models composition convert data evaluation training api inspection cli"
    )
    order, package = layers.split(), Path(mutua.__file__).parent
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] not in order:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("from", "import") and words[1].startswith("mutua.") and line[0] != " ":
                target = words[1].split(".")[1]
                assert order.index(target) <= order.index(parts[0]), f"{path.name}: {line}"
