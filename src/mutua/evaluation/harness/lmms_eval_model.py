"""A model for lmms-eval, which finds it by itself where both are installed:

    lmms-eval eval --model mutua --model_args pretrained=runs/mine/model --tasks mme --batch_size 8

What it answers is what `mutua.ask` answers to the same pictures and words, greedily.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from loguru import logger
from tqdm import tqdm

from mutua.respond import GREEDY, Conversation, respond
from mutua.unlocking import open_model

_MAX_NEW_TOKENS = 512  # where a task says nothing: the paper's
_BATCHES_AT_A_TIME = 16  # whose pictures are open at once
_OF_SAMPLING = ("temperature", "top_p", "top_k")
_KNOWN = {*_OF_SAMPLING, "max_new_tokens", "until", "do_sample", "num_beams"}
_INJECTED = "\n\n"  # lmms-eval lets a reply end there where a task names no end: most of a longer reply would be lost


class LmmsEvalModel(lmms):
    """Answers lmms-eval's requests.

    Args:
        pretrained: a folder, or a model on the Hugging Face hub; None is the tiny model of the package.
        policy: an attention policy other than the one the model was saved with.
        device, batch_size: as lmms-eval's command gives them.

    Raises:
        ValueError: an argument that is not known, or a value that cannot be.
        ModelError: no such model.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        policy: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ValueError(f"--model_args {', '.join(sorted(unknown))}: `mutua` takes pretrained and policy.")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"--batch_size {batch_size}: name a number of questions, e.g. 8.")
        self.batch_size = int(batch_size)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model, self._processor = open_model(pretrained, policy, device=self.device)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """A reply to each request, in their order."""
        results: dict[int, GenerationResult] = {}
        progress = tqdm(total=len(requests), disable=self.rank != 0, desc="mutua")
        by_options: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            by_options.setdefault(repr(request.args[2]), []).append(place)
        for places in by_options.values():
            options, ends = generate_options(requests[places[0]].args[2])
            for start in range(0, len(places), _BATCHES_AT_A_TIME * self.batch_size):
                some = places[start : start + _BATCHES_AT_A_TIME * self.batch_size]
                asked = [self._conversation(requests[place]) for place in some]
                names = [f"{requests[place].args[4]} {requests[place].args[3]}" for place in some]
                answers = respond(
                    self._model, self._processor, asked, batch_size=self.batch_size, names=names, **options
                )
                for place, answer in zip(some, answers, strict=True):
                    counts = TokenCounts(output_tokens=answer.tokens)
                    results[place] = GenerationResult(until(answer.text, ends), counts)
                progress.update(len(some))
        progress.close()
        return [results[place] for place in range(len(requests))]

    def _conversation(self, request: Instance) -> Conversation:
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
        if any(messages.extract_media()[1:]):
            raise ValueError(f"{task} {doc_id} holds a video or a sound: Mutua answers to pictures and text.")
        return messages.to_hf_messages()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("`mutua` answers in words and gives no likelihoods: choose a task that generates.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("`mutua` answers tasks of one round: choose another task.")


def generate_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What `respond` takes of a task's `generation_kwargs`, and the texts at which a reply ends."""
    if others := sorted(given.keys() - _KNOWN):
        logger.warning(f"generation_kwargs {', '.join(others)}: made for another model, and left out.")
    temperature = float(given.get("temperature") or 0)
    samples = bool(given.get("do_sample", temperature > 0))
    options: dict[str, Any] = {**GREEDY, "max_new_tokens": int(given.get("max_new_tokens") or _MAX_NEW_TOKENS)}
    options["do_sample"] = samples
    if int(given.get("num_beams") or 1) > 1:
        options["num_beams"] = int(given["num_beams"])
    if samples:
        options |= {name: given[name] for name in _OF_SAMPLING if given.get(name) is not None}
    ends = given.get("until") or []
    return options, [end for end in ([ends] if isinstance(ends, str) else ends) if end != _INJECTED]


def until(text: str, ends: Sequence[str]) -> str:
    """The text before the first of the ends in it."""
    return text[: min((text.index(end) for end in ends if end and end in text), default=len(text))]
