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
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from mutua.chat.control_tokens import control_tokens_of
from mutua.chat.conversation import render_conversation
from mutua.chat.messages import check_messages
from mutua.chat.placeholders import (
    ImageForm,
    beginnings,
    feature_ids_of,
    modalities_of,
    part_types_of,
    placeholders_of,
    runs_of,
)
from mutua.chat.reply_spans import Rendering
from mutua.chat.reply_tokens import tokenize_rendering
from mutua.chat.template import ChatTemplate, template_source
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
    image_token = getattr(processor, "image_token", None)
    variables = {**processor.tokenizer.special_tokens_map, **variables}
    template = ChatTemplate(template_source(processor, chat_template), variables)
    control_tokens = control_tokens_of(processor.tokenizer)
    batch = check_messages(conversations, control_tokens, template, part_types_of(processor))
    aligner = _Aligner(processor, inputs, set(control_tokens.values()))
    is_token_BN = inputs["attention_mask"].bool()
    is_response_BN, begins_item_BN = torch.zeros_like(is_token_BN), torch.zeros_like(is_token_BN)
    for row, messages in enumerate(batch):
        rendering = render_conversation(
            template,
            messages,
            image_token,
            control_tokens,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        is_token_N = is_token_BN[row]
        try:
            is_reply, begins_item = aligner.align(rendering, inputs["input_ids"][row][is_token_N].tolist())
        except ValueError as error:
            raise ValueError(f"conversation {row + 1}: {error}") from error
        is_response_BN[row, is_token_N] = torch.tensor(is_reply, device=is_token_BN.device)
        begins_item_BN[row, is_token_N] = torch.tensor(begins_item, device=is_token_BN.device)
    modality_BN = modalities_of(inputs["input_ids"], aligner.features)
    document_BN = torch.where(is_token_BN, 0, NONE)
    return TokenRoles.from_responses(is_response_BN, modality_BN, document_BN, begins_item_BN)


@dataclass(frozen=True)
class _Text:
    """A text between placeholders.

    Attributes:
        ids: its tokens.
        said: which of them are replies.
        before: what the placeholders before it stand for, since the last text that is not whitespace alone.
    """

    ids: list[int]
    said: list[bool]
    before: tuple[Modality, ...]


class _Aligner:
    """Finds the texts of conversations in the tokens of a batch, row by row."""

    def __init__(self, processor: Any, inputs: Any, control_ids: set[int]) -> None:
        self.processor, self.inputs, self.control_ids = processor, inputs, control_ids
        self.placeholders, self.features = placeholders_of(processor), feature_ids_of(processor)
        longest_first = sorted(self.placeholders, key=len, reverse=True)
        self.placeholder = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.images = 0  # of the rows before

    def align(self, rendering: Rendering, ids: list[int]) -> tuple[list[bool], list[bool]]:
        """Of every token, whether it is part of a reply, and whether it is the first feature token of an item."""
        texts = self._texts(rendering)
        items = [len(text.before) for text in texts]
        starts = self._places([text.ids for text in texts], items, ids)
        # From the right: the same places, or the texts have more than one.
        mirrored = self._places([text.ids[::-1] for text in texts[::-1]], [0, *items[:0:-1]], ids[::-1])
        is_reply, begins_item, done = [False] * len(ids), [False] * len(ids), 0
        for text, start, from_right in zip(texts, starts, mirrored[::-1], strict=True):
            if text.ids and start + len(text.ids) != len(ids) - from_right:
                self._refuse(text.ids, "is in more than one place")
            for begin in self._beginnings(ids, done, start, text.before):
                begins_item[begin] = True
            done = start + len(text.ids)
            is_reply[start:done] = text.said
        return is_reply, begins_item

    def _texts(self, rendering: Rendering) -> list[_Text]:
        """The texts around the placeholders, the first and the last also where they are empty."""
        text = rendering.text
        ids, offsets, said = tokenize_rendering(self.processor.tokenizer, rendering, self.control_ids)
        found = list(self.placeholder.finditer(text))
        borders = [0, *(border for match in found for border in match.span()), len(text)]
        texts, before = [], ()  # type: tuple[list[_Text], tuple[Modality, ...]]
        for nth, (start, stop) in enumerate(zip(borders[::2], borders[1::2], strict=True)):
            is_first, is_last = nth == 0, nth == len(found)
            places = [place for place, (begin, end) in enumerate(offsets) if start <= begin and end <= stop and end]
            is_space = [not said[place] and not text[slice(*offsets[place])].strip() for place in places]
            places = _without_whitespace(places, is_space, at_start=not is_first, at_end=not is_last)
            if places or is_first or is_last:
                texts.append(_Text([ids[place] for place in places], [said[place] for place in places], before))
                before = ()
            if not is_last:
                before = (*before, self.placeholders[found[nth][0]])
        return texts

    def _places(self, texts: list[list[int]], items: list[int], ids: list[int]) -> list[int]:
        """The first places of texts, in order, each behind at least one feature token for every item before it.

        Only tokens that the tokenizer adds, such as one that ends every text, may stand behind the last (and, by the
        search from the right, before the first).
        """

        def added(tokens: list[int]) -> bool:
            return all(token in self.control_ids and token not in self.features for token in tokens)

        starts: list[int] = []
        done = 0
        for nth, (text, count) in enumerate(zip(texts, items, strict=True)):
            features = 0
            for start in range(done, len(ids) - len(text) + 1):
                done = start + len(text)
                is_here = features >= count and (not text or ids[start] == text[0]) and ids[start:done] == text
                if nth == len(texts) - 1:
                    is_here = is_here and added(ids[done:])
                if is_here:
                    starts.append(start)
                    break
                features += start < len(ids) and ids[start] in self.features
            else:
                self._refuse(text, "is not in its place")
        return starts

    def _refuse(self, text: list[int], problem: str) -> NoReturn:
        shown = self.processor.tokenizer.decode(text)[:60]
        raise ValueError(
            f"its text {shown!r} {problem} among the tokens: pass the conversation, the chat_template and the options "
            "(add_generation_prompt, ...) with which they were made, uncut."
        )

    def _beginnings(self, ids: list[int], start: int, stop: int, modalities: tuple[Modality, ...]) -> list[int]:
        """The first feature token of every item in the expansions of placeholders that stand side by side."""
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
