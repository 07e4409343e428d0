"""A model for VLMEvalKit, and Mutua's answers in its files.

VLMEvalKit takes no models from outside, so it is started from here. What follows the model goes to its `run.py`:

    python -m mutua.evaluation.harness.vlmevalkit runs/mine/model --data MME POPE --work-dir out
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

try:
    from vlmeval.config import supported_VLM
    from vlmeval.vlm.base import BaseModel
except ModuleNotFoundError as error:
    if error.name != "vlmeval":
        raise
    raise ImportError('VLMEvalKit is not installed: pip install "mutua[vlmevalkit]"') from error

from mutua.evaluation.benchmark import VLMEVALKIT
from mutua.images import open_image
from mutua.models.model_folder import PACKAGED
from mutua.respond import GREEDY, respond
from mutua.unlocking import open_model


class VLMEvalKitModel(BaseModel):
    """Answers VLMEvalKit's messages, greedily and with as many new tokens as the paper.

    Args:
        model: a folder, or a model on the Hugging Face hub; None is the tiny model of the package.
        policy: an attention policy other than the one the model was saved with.

    Raises:
        ModelError: no such model.
        ValueError: no such policy.
    """

    INTERLEAVE = True

    def __init__(self, model: str | None = None, policy: str | None = None) -> None:
        super().__init__()
        self._model, self._processor = open_model(model, policy)

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """The reply to pictures and texts in the order in which they come.

        Raises:
            ValueError: a part is neither picture nor text.
        """
        parts = [_part(part["type"], part["value"]) for part in message]
        asked = [{"role": "user", "content": parts}]
        limit = VLMEVALKIT.max_new_tokens
        return respond(self._model, self._processor, [asked], max_new_tokens=limit, **GREEDY)[0].text


def _part(kind: str, value: str) -> dict[str, Any]:
    if kind == "image":
        return {"type": "image", "image": open_image(value)}
    if kind == "text":
        return {"type": "text", "text": value}
    raise ValueError(f"a question holds a part of type {kind!r}: Mutua answers to pictures and text.")


def name_of(model: str | None, policy: str | None) -> str:
    """What the harness calls a model, and the files of its answers: `mutua-<model>-<digest>`.

    It takes over answers that lie under the same name, so the digest is of the model's place, of its weights' files as
    they are now, and of the policy.
    """
    folder = PACKAGED if model is None else Path(model)
    weights = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.safetensors"))
    ]
    place = str(folder.resolve()) if folder.is_dir() else model
    digest = blake2b(json.dumps([place, policy, weights]).encode(), digest_size=4).hexdigest()
    called = re.sub(r"[^\w-]+", "_", "-".join(folder.parts[-2:]))
    return f"mutua-{'packaged' if model is None else called}-{digest}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs VLMEvalKit on a model, under a name of its own (`name_of`)."""
    parser = argparse.ArgumentParser(
        prog="python -m mutua.evaluation.harness.vlmevalkit",
        description="Runs VLMEvalKit on a model of Mutua's. All other arguments are VLMEvalKit's.",
    )
    parser.add_argument("model", help="a folder or hub id; 'packaged' is the tiny model of the package")
    parser.add_argument("--policy", help="an attention policy other than the model's own")
    given, others = parser.parse_known_args(arguments)
    model = None if given.model == "packaged" else given.model
    name = name_of(model, given.policy)
    supported_VLM[name] = partial(VLMEvalKitModel, model, given.policy)
    from vlmeval.run import main as run

    sys.argv = ["run.py", "--model", name, *others]
    run()


if __name__ == "__main__":
    main()
