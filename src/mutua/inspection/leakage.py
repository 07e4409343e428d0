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

from mutua.attention import auto, get_policy
from mutua.chat import roles_of
from mutua.data.collate import role_codes
from mutua.models.longest_text import longest_text
from mutua.respond import to_model
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
    """Perturbs random conversations of two turns, pictures in both: alone, packed with another, in a padded batch with
    another, and, where the default backend begins to split its rows there, as turns of a long one.

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
        inputs, other = (_encode(processor, [_random_chat(rng)], model) for _ in range(2))
        again = _change(_states(model, inputs), _states(model, inputs))
        tolerance = max(tolerance, 4 * float(again.nan_to_num(0.0).max()))
        for name, found in (
            ("a response token: states before it", _responses(model, inputs)),
            ("the question: states of its image", _questions(model, inputs)),
            ("another document: states of this one", [] if is_unlocked(model) else _documents(model, inputs, other)),
            ("padding: states of real tokens", _padding(model, inputs)),
            ("a reply in a padded batch: states before it, other rows", _batches(model, processor, rng)),
            ("a reply in a long row: states before it", _long_row(model, processor, rng, inputs)),
        ):
            if found:
                moves.setdefault(name, []).extend(found)
        if progress is not None:
            progress(done + 1, conversations)
    findings = []
    for name, found in moves.items():
        must_move = looks_ahead and name.startswith("the question")
        moved = math.nan if any(map(math.isnan, found)) else min(found) if must_move else max(found)
        findings.append(Finding(name, len(found), moved, must_move, tolerance))
    return Proof(policy.name, tuple(findings))


def _random_chat(rng: random.Random, turns: int = 2, words: tuple[int, int] = (4, 9)) -> list[dict[str, Any]]:
    """Turns with a picture, and so many words in each part, at least and at most, replies included."""

    def text() -> dict[str, str]:
        return {"type": "text", "text": " ".join(rng.choices(_WORDS, k=rng.randint(*words)))}

    messages = []
    for _ in range(turns):
        picture = Image.frombytes("RGB", (32, 32), rng.randbytes(3 * 32 * 32))
        messages.append({"role": "user", "content": [text(), {"type": "image", "image": picture}, text()]})
        messages.append({"role": "assistant", "content": [text()]})
    return messages


def _encode(processor: Any, chats: list[Any], model: Any, side: str = "left") -> dict[str, Tensor]:
    """Whole conversations as model inputs, a row each, padded on that side."""
    inputs = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": len(chats) > 1, "padding_side": side},
    )
    if is_unlocked(model):
        inputs[ROLES] = roles_of(processor, chats, inputs).to_codes()
    return to_model(model, inputs)


def _roles(inputs: dict[str, Tensor]) -> TokenRoles:
    return TokenRoles.from_codes(role_codes(inputs))


@torch.no_grad()
def _states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Final hidden states, (B, N, T)."""
    states_BNT = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[-1]
    return states_BNT.to(torch.promote_types(states_BNT.dtype, torch.float32))


def _swap(inputs: dict[str, Tensor], is_other_BN: Tensor) -> dict[str, Tensor]:
    """Other tokens there, where there is text; images keep their placeholder."""
    ids_BN, roles = inputs["input_ids"], _roles(inputs)
    # Any two ordinary words: those of the rows themselves are in every vocabulary.
    words = ids_BN[roles.is_response_BN].unique()
    other_BN = torch.where(ids_BN == words[0], words[-1], words[0])
    return {**inputs, "input_ids": torch.where(is_other_BN & (roles.modality_BN == Modality.TEXT), other_BN, ids_BN)}


def _change(before_BNT: Tensor, after_BNT: Tensor) -> Tensor:
    """(B, N) change of every state: of its dimensions, relative to the largest value there, the one that moved most.

    nan everywhere if a single number of either run is not finite: it says nothing about what was seen.
    """
    if not bool((before_BNT.isfinite() & after_BNT.isfinite()).all()):
        return torch.full_like(before_BNT[..., 0], math.nan)
    largest_T = torch.maximum(before_BNT.abs(), after_BNT.abs()).amax((0, 1))
    largest_T = largest_T.clamp(min=torch.finfo(before_BNT.dtype).tiny)
    return ((before_BNT - after_BNT).abs() / largest_T).amax(-1)


def _index(inputs: dict[str, Tensor]) -> Tensor:
    """(N,) the place of every token in its row."""
    ids_BN = inputs["input_ids"]
    return torch.arange(ids_BN.shape[1], device=ids_BN.device)


def _responses(model: Any, inputs: dict[str, Tensor]) -> list[float]:
    before, index_N = _states(model, inputs), _index(inputs)
    moved = []
    for place in _roles(inputs).is_response_BN[0].nonzero()[:, 0]:
        after = _states(model, _swap(inputs, (index_N == place)[None]))
        moved.append(float(_change(before, after)[0, index_N < place].max()))
    return moved


def _questions(model: Any, inputs: dict[str, Tensor]) -> list[float]:
    """Per block: how far the states of its image move with the text after it (the least of its tokens)."""
    roles, before, index_N = _roles(inputs), _states(model, inputs), _index(inputs)
    moved = []
    for block in roles.block_BN[0].unique():
        in_block_N = roles.block_BN[0] == block
        is_image_N = in_block_N & (roles.modality_BN[0] == Modality.IMAGE)
        if block < 0 or not is_image_N.any():
            continue
        after = _states(model, _swap(inputs, (in_block_N & (index_N > is_image_N.nonzero()[-1]))[None]))
        moved.append(float(_change(before, after)[0, is_image_N].min()))
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
    before, index_N = _states(model, packed), _index(packed)
    moved = []
    for is_mine_N, mine in ((index_N < split, slice(images)), (index_N >= split, slice(images, None))):
        changed = _swap(packed, is_mine_N[None])
        changed["pixel_values"] = packed["pixel_values"].clone()
        changed["pixel_values"][mine] *= -1
        moved.append(float(_change(before, _states(model, changed))[0, ~is_mine_N].max()))
    return moved


def _padding(model: Any, inputs: dict[str, Tensor], length: int = 5) -> list[float]:
    """Pads on either side, and puts other tokens where the padding is."""
    moved = []
    for sides in ((length, 0), (0, length)):
        per_token = [key for key, value in inputs.items() if value.shape == inputs["input_ids"].shape]
        padded = inputs | {key: torch.nn.functional.pad(inputs[key], sides, value=PADDING_CODE) for key in per_token}
        is_token_BN = padded["attention_mask"].bool()
        changed = _swap(padded, ~is_token_BN)
        moved.append(float(_change(_states(model, padded), _states(model, changed))[is_token_BN].max()))
    return moved


def _batches(model: Any, processor: Any, rng: random.Random) -> list[float]:
    """The shorter of two rows, padded: on the left and the second, on the right and the first. None where there is no
    token to pad with, and so no batch."""
    if processor.tokenizer.pad_token is None:
        return []
    short, long = _random_chat(rng, words=(1, 3)), _random_chat(rng)
    return [
        _reply(model, _encode(processor, chats, model, side), chats.index(short), rng)
        for side, chats in (("left", [long, short]), ("right", [short, long]))
    ]


def _long_row(model: Any, processor: Any, rng: random.Random, short: dict[str, Tensor]) -> list[float]:
    """A row of so many turns that `mutua_auto` computes it otherwise than a short one; none if that is long enough, or
    if the model knows fewer positions."""
    length = short["input_ids"].shape[1]
    turns = 2 * math.ceil(1.2 * auto.SPLIT_FROM.get(model.device.type, 0) / length)
    limit = longest_text(model.config.get_text_config())
    if turns <= 2 or (limit is not None and 1.2 * turns * length / 2 > limit):
        return []
    return [_reply(model, _encode(processor, [_random_chat(rng, turns)], model), 0, rng)]


def _reply(model: Any, inputs: dict[str, Tensor], row: int, rng: random.Random) -> float:
    """Other text from one of the replies of a row on: how far the states before it and those of other rows move."""
    roles, index_N = _roles(inputs), _index(inputs)
    is_response_N = roles.is_response_BN[row]
    begins_N = is_response_N & ~torch.nn.functional.pad(is_response_N, (1, -1))
    first = int(rng.choice(begins_N.nonzero()[:, 0].tolist()))
    is_later_BN = torch.zeros_like(roles.is_token_BN)
    is_later_BN[row] = index_N >= first
    change_BN = _change(_states(model, inputs), _states(model, _swap(inputs, is_later_BN)))
    return float(change_BN[roles.is_token_BN & ~is_later_BN].max())
