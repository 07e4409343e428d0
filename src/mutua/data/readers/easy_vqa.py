"""easy-VQA (https://github.com/vzhou842/easy-VQA): questions about one coloured shape, from the PyPI package."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Literal

from mutua.data.sample import ImagePart, Message, Sample, TextPart
from mutua.data.samples import Samples


class EasyVQA(Samples):
    """38,575 train and 9,673 test questions with one-word answers, each about a 64 x 64 picture.

    With `turns` above 1 a conversation goes on with other questions about its picture, as far as there are any.
    """

    def __init__(self, split: Literal["train", "test"] = "train", turns: int = 1) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split {split!r}: easy-vqa has 'train' and 'test'")
        if turns < 1:
            raise ValueError(f"turns {turns}: must be at least 1")
        try:
            import easy_vqa
        except ImportError as error:
            raise ImportError('easy-VQA is not installed: pip install "mutua[train]"') from error
        read = easy_vqa.get_train_questions if split == "train" else easy_vqa.get_test_questions
        self.split, self.turns = split, turns
        self.images = Path(easy_vqa.__file__).parent / "data" / split / "images"
        self.questions, self.answers, self.image_ids = read()
        self._about: defaultdict[int, list[int]] = defaultdict(list)
        for index, image_id in enumerate(self.image_ids):
            self._about[image_id].append(index)

    def __len__(self) -> int:
        return len(self.questions)

    def _sample(self, index: int) -> Sample:
        image_id = self.image_ids[index]
        siblings = self._about[image_id]
        place = siblings.index(index)
        messages = []
        for turn in range(min(self.turns, len(siblings))):
            asked = siblings[(place + turn) % len(siblings)]
            question, answer = TextPart(text=self.questions[asked]), TextPart(text=self.answers[asked])
            picture = [] if turn else [ImagePart(image=self.images / f"{image_id}.png")]
            messages.append(Message(role="user", content=(*picture, question)))
            messages.append(Message(role="assistant", content=(answer,)))
        return Sample(
            id=f"easy-vqa-{self.split}-{index}",
            messages=tuple(messages),
            family=family_of(self.questions[index]) if self.turns == 1 else "",  # a conversation mixes them
            source="easy-vqa",
        )


def family_of(question: str) -> str:
    """What a question asks: the `colour`, the `shape`, whether something is there (`exists`) or is not (`absent`)."""
    if question.startswith("what"):
        return "colour" if re.search(r"\bcolor\b", question) else "shape"
    return "absent" if re.search(r"\b(not|no)\b", question) else "exists"
