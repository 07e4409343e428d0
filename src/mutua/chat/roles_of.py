"""The roles of what any Transformers processor made of conversations.

The conversation is rendered again, its replies are found in the text (`reply_spans`), and the text is tokenized with
its placeholders as they are, one a picture. The processor's tokens are the same ones, but for the placeholders, each of
which became an expansion of its own length. So the text between two placeholders is looked for in the tokens, and what
lies between is the expansion: one placeholder, one item, whatever separators cut it. A whitespace token beside a
placeholder is left out of the search, as an expansion may begin with a line break that joins it (Gemma 3).

Shape suffixes: B batch, N tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mutua.chat.control_tokens import check_messages, control_tokens_of
from mutua.chat.placeholders import ImageForm, beginnings, feature_ids_of, placeholders_of, runs_of
from mutua.chat.reply_spans import Rendering, expect_images, find_replies
from mutua.chat.reply_tokens import reply_tokens
from mutua.chat.template import ChatTemplate, template_source, to_template_form
from mutua.roles import NONE, Modality, TokenRoles


def roles_of(
    processor: Any,
    conversations: Any,
    inputs: Any,
    *,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    **variables: Any,
) -> TokenRoles:
    """The role of every token of `processor.apply_chat_template(conversations, tokenize=True, return_dict=True)`.

    Args:
        processor: any of Transformers, with a fast tokenizer.
        conversations: one conversation, or a batch of them.
        inputs: what the processor returned, `input_ids` and `attention_mask` of shape (B, N), padded on either side.
        chat_template, add_generation_prompt, continue_final_message, variables: as in the call that made `inputs`.

    Raises:
        ChatTemplateError: it does not follow from the template which text is a reply (see `reply_spans`).
        ValueError: a message holds a control token, the tokens are not those of the conversations, or it cannot be
            known where one image ends and the next begins.
    """
    batch = conversations if isinstance(conversations[0], (list, tuple)) else [conversations]
    image_token = getattr(processor, "image_token", None)
    variables = {**processor.tokenizer.special_tokens_map, **variables}
    template = ChatTemplate(template_source(processor, chat_template), variables)
    control_tokens = control_tokens_of(processor.tokenizer)
    aligner = _Aligner(processor, inputs, set(control_tokens.values()))
    is_token_BN = inputs["attention_mask"].bool()
    is_response_BN, begins_item_BN = torch.zeros_like(is_token_BN), torch.zeros_like(is_token_BN)
    for row, messages in enumerate(batch):
        check_messages(messages, control_tokens)
        rendering = find_replies(
            template,
            to_template_form(template, messages, image_token) if image_token else messages,
            control_tokens,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        if image_token:
            expect_images(rendering, messages, image_token)
        is_token_N = is_token_BN[row]
        try:
            is_reply, begins_item = aligner.align(rendering, inputs["input_ids"][row][is_token_N].tolist())
        except ValueError as error:
            raise ValueError(f"conversation {row + 1}: {error}") from error
        is_response_BN[row, is_token_N] = torch.tensor(is_reply, device=is_token_BN.device)
        begins_item_BN[row, is_token_N] = torch.tensor(begins_item, device=is_token_BN.device)
    modality_BN = torch.full_like(inputs["input_ids"], int(Modality.TEXT))
    for index, modality in feature_ids_of(processor).items():
        modality_BN[inputs["input_ids"] == index] = int(modality)
    document_BN = torch.where(is_token_BN, 0, NONE)
    return TokenRoles.from_responses(is_response_BN, modality_BN, document_BN, begins_item_BN)


@dataclass(frozen=True)
class _Expansions:
    """Tokens (start, stop) that placeholders with nothing but whitespace between them became."""

    start: int
    stop: int
    modalities: tuple[Modality, ...]


class _Aligner:
    """Finds the texts of conversations in the tokens of a batch, row by row."""

    def __init__(self, processor: Any, inputs: Any, control_ids: set[int]) -> None:
        self.processor, self.inputs, self.control_ids = processor, inputs, control_ids
        self.placeholders, self.features = placeholders_of(processor), feature_ids_of(processor)
        longest_first = sorted(self.placeholders, key=len, reverse=True)
        self.placeholder = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.images = 0  # of the rows before

    def align(self, rendering: Rendering, ids: Sequence[int]) -> tuple[list[bool], list[bool]]:
        """Of every token, whether it is part of a reply, and whether it is the first feature token of an item."""
        tokenizer, text = self.processor.tokenizer, rendering.text
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        written, offsets = encoded["input_ids"], encoded["offset_mapping"]
        said = reply_tokens(
            text,
            rendering.replies,
            offsets,
            written,
            self.control_ids,
            lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        )
        is_reply, begins_item = [False] * len(ids), [False] * len(ids)
        found = list(self.placeholder.finditer(text))
        borders = [0, *(border for match in found for border in match.span()), len(text)]
        modalities: tuple[Modality, ...] = ()  # of the placeholders since the text found last
        done = 0
        for nth, (start, stop) in enumerate(zip(borders[::2], borders[1::2], strict=True)):
            is_last = nth == len(found)
            places = [place for place, (begin, end) in enumerate(offsets) if start <= begin and end <= stop and end]
            is_space = [not said[place] and not text[slice(*offsets[place])].strip() for place in places]
            places = _without_whitespace(places, is_space, at_start=nth > 0, at_end=not is_last)
            chunk = [written[place] for place in places]
            if chunk or is_last:
                at = self._find(chunk, ids, done, len(modalities), is_first=nth == 0, is_last=is_last)
                for begin in self._beginnings(ids, _Expansions(done, at, modalities)):
                    begins_item[begin] = True
                is_reply[at : at + len(chunk)] = [said[place] for place in places]
                done, modalities = at + len(chunk), ()
            if not is_last:
                modalities = (*modalities, self.placeholders[found[nth][0]])
        return is_reply, begins_item

    def _find(
        self, chunk: list[int], ids: Sequence[int], done: int, items: int, *, is_first: bool, is_last: bool
    ) -> int:
        """Where the tokens of a text stand, behind at least one feature token for each item before it."""

        def added(tokens: Sequence[int]) -> bool:
            return all(token in self.control_ids and token not in self.features for token in tokens)

        features = 0
        for at in range(done, len(ids) - len(chunk) + 1):
            fits = ids[at : at + len(chunk)] == chunk and features >= items
            if fits and (not is_first or added(ids[:at])) and (not is_last or added(ids[at + len(chunk) :])):
                return at
            if at < len(ids):
                features += ids[at] in self.features
        tokens = self.processor.tokenizer.decode(chunk)[:60]
        raise ValueError(
            f"its text {tokens!r} is not in its place among the tokens: pass the conversation, the chat_template and "
            "the options (add_generation_prompt, ...) with which they were made, uncut."
        )

    def _beginnings(self, ids: Sequence[int], expansions: _Expansions) -> list[int]:
        """The first feature token of every item."""
        start, stop, modalities = expansions.start, expansions.stop, expansions.modalities
        places = [place for place in range(start, stop) if ids[place] in self.features]
        images = sum(modality == Modality.IMAGE for modality in modalities)
        first_image, self.images = self.images, self.images + images
        if len(modalities) <= 1:
            return places[:1]
        if images == len(modalities):
            known = [self._length(image) for image in range(first_image, self.images)]
            lengths = [length for length in known if length is not None]
            if len(lengths) == images and sum(lengths) == len(places):
                return [places[sum(lengths[:nth])] for nth in range(images)]
            found = beginnings(ids[start:stop], self.features, ImageForm.learn(self.processor))
        else:
            found = [begin for begin, _ in runs_of(ids[start:stop], self.features)]
        if len(found) != len(modalities):
            raise ValueError(
                f"{len(modalities)} pictures or clips stand side by side, and their {len(places)} tokens cannot be "
                "told apart: put text between them."
            )
        return [start + place for place in found]

    def _length(self, image: int) -> int | None:
        """Feature tokens of an image of the batch, where the processor can tell from what it returned."""
        try:
            expansion = self.processor.replace_image_token(self.inputs, image)
        except (AttributeError, KeyError, NotImplementedError):  # it dropped what it would have to look at
            return None
        ids = self.processor.tokenizer(expansion, add_special_tokens=False)["input_ids"]
        return sum(index in self.features for index in ids)


def _without_whitespace(places: list[int], is_space: list[bool], *, at_start: bool, at_end: bool) -> list[int]:
    """The tokens without those of whitespace alone at an end where a placeholder stands."""
    first, last = 0, len(places)
    while at_start and first < last and is_space[first]:
        first += 1
    while at_end and first < last and is_space[last - 1]:
        last -= 1
    return places[first:last]
