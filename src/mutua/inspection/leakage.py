"""The proof that a model keeps the rule: perturb what must be invisible, and show that nothing moved.

Works on any Transformers model that takes our roles: in `token_type_ids`, with a processor that returns them, or
unlocked (`mutua.unlock`). It compares final hidden states, so it tests the whole path from the inputs to the last
layer, whatever the backend.

Shape suffixes: B batch, N tokens, T width.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from mutua.attention.policy import get_policy
from mutua.chat import roles_of
from mutua.roles import PADDING_CODE, Modality, TokenRoles
from mutua.unlocking import ROLES, is_unlocked, policy_of

# What cannot be seen changes nothing at all, to the last bit, as nothing but zeros is added for it. In full precision,
# where no leak is that small, last digits are allowed for (experts that share a matrix product change its shape).
_LAST_DIGITS = {torch.float64: 1e-13, torch.float32: 1e-6}
_WORDS = ("what", "is", "the", "red", "small", "large", "circle", "left", "of", "this", "one", "how", "many", "are")


@dataclass(frozen=True)
class Finding:
    """One kind of perturbation.

    Attributes:
        name: what was perturbed, and what was watched.
        trials: how many single tokens, documents or paddings were perturbed.
        moved: the largest change of a watched state, of each of its dimensions relative to the largest value in that
            dimension, so that one with huge values hides no other; nan if any state of any run is nan or infinite.
        must_move: whether the watched states must move (the least change counts) or must not.
        tolerance: a change of at most this counts as none.
    """

    name: str
    trials: int
    moved: float
    must_move: bool
    tolerance: float

    @property
    def verdict(self) -> Literal["ok", "leak", "no look-ahead", "not finite"]:
        """Whether the states did as they must, and what is wrong if not."""
        if not math.isfinite(self.moved):
            return "not finite"
        if self.must_move:
            return "ok" if self.moved > self.tolerance else "no look-ahead"
        return "ok" if self.moved <= self.tolerance else "leak"

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"


@dataclass(frozen=True)
class Proof:
    """All findings for one model."""

    policy: str
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        return all(finding.ok for finding in self.findings)


def prove(
    model: Any,
    processor: Any,
    conversations: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """Perturbs random conversations of two turns, pictures in both.

    Args:
        model: as from `mutua.load`, or unlocked (its rows are not packed, as its positions are its own). What must not
            move may not move at all; in float32 by less than a millionth, and under a kernel that is not deterministic
            by four times what two runs of the same inputs differ by.
        conversations: how many; every response token of each is perturbed on its own.
        progress: called with (conversations done, conversations in all).

    Raises:
        ValueError: a model of others that is not unlocked.
    """
    name = policy_of(model)
    if name is None:
        raise ValueError(f"{type(model).__name__} has no policy to be proved: mutua.unlock(model, processor) first.")
    policy = get_policy(name)
    tolerance = _LAST_DIGITS.get(model.dtype, 0.0)
    looks_ahead = (Modality.IMAGE, Modality.TEXT) in policy.looks_ahead
    rng = random.Random(seed)
    moves: dict[str, list[float]] = {}
    for done in range(conversations):
        inputs, other = (_random_chat(processor, rng, model) for _ in range(2))
        again = _change(_states(model, inputs), _states(model, inputs))
        tolerance = max(tolerance, 4 * float(again.nan_to_num(0.0).max()))
        for name, found in (
            ("a response token: states before it", _responses(model, inputs)),
            ("the question: states of its image", _questions(model, inputs)),
            ("another document: states of this one", [] if is_unlocked(model) else _documents(model, inputs, other)),
            ("padding: states of real tokens", _padding(model, inputs)),
        ):
            if not found:
                continue
            moves.setdefault(name, []).extend(found)
        if progress is not None:
            progress(done + 1, conversations)
    findings = []
    for name, found in moves.items():
        must_move = looks_ahead and name.startswith("the question")
        moved = math.nan if any(map(math.isnan, found)) else min(found) if must_move else max(found)
        findings.append(Finding(name, len(found), moved, must_move, tolerance))
    return Proof(policy.name, tuple(findings))


def _random_chat(processor: Any, rng: random.Random, model: Any) -> dict[str, Tensor]:
    """Two turns with a picture and words in each, replies included, as model inputs of one row."""

    def words() -> str:
        return " ".join(rng.choices(_WORDS, k=rng.randint(4, 9)))

    def picture() -> Image.Image:
        return Image.frombytes("RGB", (32, 32), rng.randbytes(3 * 32 * 32))

    messages = []
    for _ in range(2):
        parts = [{"type": "text", "text": words()}, {"type": "image", "image": picture()}]
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": words()}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": words()}]})
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    if is_unlocked(model):
        inputs[ROLES] = roles_of(processor, messages, inputs).to_codes()
    return dict(inputs.to(model.device, dtype=model.dtype))


def _roles(inputs: dict[str, Tensor]) -> TokenRoles:
    return TokenRoles.from_codes(inputs[ROLES] if ROLES in inputs else inputs["token_type_ids"])


@torch.no_grad()
def _states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Final hidden states of one row, (N, T)."""
    states_NT = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[-1][0]
    return states_NT.to(torch.promote_types(states_NT.dtype, torch.float32))


def _swap(inputs: dict[str, Tensor], places: Tensor) -> dict[str, Tensor]:
    """Other tokens at `places`, where there is text; images keep their placeholder."""
    ids_BN, roles = inputs["input_ids"].clone(), _roles(inputs)
    places = places[roles.modality_BN[0, places] == Modality.TEXT]
    # Any two ordinary words: those of the row itself are in every vocabulary.
    words = inputs["input_ids"][0, roles.is_response_BN[0]].unique()
    ids_BN[0, places] = torch.where(ids_BN[0, places] == words[0], words[-1], words[0])
    return {**inputs, "input_ids": ids_BN}


def _change(before_NT: Tensor, after_NT: Tensor) -> Tensor:
    """(N,) change of every state: of its dimensions, relative to the largest value there, the one that moved most.

    nan everywhere if a single number of either run is not finite: it says nothing about what was seen.
    """
    if not bool((before_NT.isfinite() & after_NT.isfinite()).all()):
        return torch.full_like(before_NT[:, 0], math.nan)
    largest_T = torch.maximum(before_NT.abs(), after_NT.abs()).amax(0).clamp(min=torch.finfo(before_NT.dtype).tiny)
    return ((before_NT - after_NT).abs() / largest_T).amax(-1)


def _responses(model: Any, inputs: dict[str, Tensor]) -> list[float]:
    before = _states(model, inputs)
    index_N = torch.arange(before.shape[0], device=before.device)
    places = _roles(inputs).is_response_BN[0].nonzero()[:, 0]
    return [
        float(_change(before, _states(model, _swap(inputs, place[None])))[index_N < place].max()) for place in places
    ]


def _questions(model: Any, inputs: dict[str, Tensor]) -> list[float]:
    """Per block: how far the states of its image move with the text after it (the least of its tokens)."""
    roles = _roles(inputs)
    before = _states(model, inputs)
    moved = []
    for block in roles.block_BN[0].unique():
        in_block = roles.block_BN[0] == block
        image = in_block & (roles.modality_BN[0] == Modality.IMAGE)
        if block < 0 or not image.any():
            continue
        places = in_block.nonzero()[:, 0]
        after = _states(model, _swap(inputs, places[places > image.nonzero()[-1]]))
        moved.append(float(_change(before, after)[image].min()))
    return moved


def _documents(model: Any, first: dict[str, Tensor], second: dict[str, Tensor]) -> list[float]:
    """Packs two conversations in one row and perturbs each in turn, pictures too."""
    roles = TokenRoles.from_codes(second["token_type_ids"])
    codes = replace(roles, document_BN=torch.where(roles.is_token_BN, roles.document_BN + 1, roles.document_BN))
    packed = {
        "input_ids": torch.cat([first["input_ids"], second["input_ids"]], 1),
        "token_type_ids": torch.cat([first["token_type_ids"], codes.to_codes()], 1),
        "pixel_values": torch.cat([first["pixel_values"], second["pixel_values"]]),
    }
    split, images = first["input_ids"].shape[1], first["pixel_values"].shape[0]
    before = _states(model, packed)
    index_N = torch.arange(before.shape[0], device=before.device)
    moved = []
    for is_mine, mine in ((index_N < split, slice(images)), (index_N >= split, slice(images, None))):
        changed = _swap(packed, is_mine.nonzero()[:, 0])
        changed["pixel_values"] = packed["pixel_values"].clone()
        changed["pixel_values"][mine] *= -1
        moved.append(float(_change(before, _states(model, changed))[~is_mine].max()))
    return moved


def _padding(model: Any, inputs: dict[str, Tensor], length: int = 5) -> list[float]:
    """Pads on either side, and puts other tokens where the padding is."""
    moved = []
    for sides in ((length, 0), (0, length)):
        per_token = [key for key, value in inputs.items() if value.shape == inputs["input_ids"].shape]
        padded = inputs | {key: torch.nn.functional.pad(inputs[key], sides, value=PADDING_CODE) for key in per_token}
        is_token = padded["attention_mask"][0].bool()
        changed = _swap(padded, (~is_token).nonzero()[:, 0])
        moved.append(float(_change(_states(model, padded), _states(model, changed))[is_token].max()))
    return moved
