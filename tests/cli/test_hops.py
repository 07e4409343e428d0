"""How many of our functions a training step is inside when attention is computed: someone has to read them all."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from what_users_read import mutua as command

import mutua

# `mutua train`, the run, the backward of a step, the model, its base, which hands over the mask; the backend that was
# chosen, and its kernel.
TO_THE_MASK, TO_THE_KERNEL = 5, 7

RECIPE = """
name: small
output: {output}
model:
  preset: tiny
  vision: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, image_size: 16}}
  text: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}}
data: {{train: [{{source: {{type: scenes, split: train, size: 50}}}}], tokenizer_texts: 40}}
train: {{steps: 1, batch_size: 2, learning_rate: 1e-3, workers: 0}}
"""


def our_callers() -> list[str]:
    """The functions of ours that are being executed, outermost first, as "room/file.py function"."""
    package, names, frame = Path(mutua.__file__).parent, [], sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(package):
            names.append(f"{path.relative_to(package)} {frame.f_code.co_name}")
        frame = frame.f_back
    return names[::-1]


def test_from_the_command_to_the_kernel(tmp_path, monkeypatch):
    found: list[list[str]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        callers = our_callers()
        # Of a training step, and not the vision encoder's own attention.
        if all(any(caller.startswith(room) for caller in callers) for room in ("training/step.py", "attention/")):
            found.append(callers)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(output=tmp_path / "run"))
    result = command("train", tmp_path / "recipe.yaml")
    assert result.exit_code == 0, result.output
    path = max(found, key=len)
    assert path[0].startswith("cli/train.py")
    assert len(path) <= TO_THE_KERNEL, "\n".join(path)
    assert path[TO_THE_MASK - 1] == "models/modeling.py forward", "\n".join(path)
