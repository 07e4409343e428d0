"""easy-VQA (https://github.com/vzhou842/easy-VQA): questions about one coloured shape, from the PyPI package."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from mutua.data.sample import ImagePart, Message, Sample, TextPart


class EasyVQA(Sequence[Sample]):
    """38,575 train and 9,673 test questions with one-word answers, each about a 64 x 64 picture."""

    def __init__(self, split: Literal["train", "test"] = "train") -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split {split!r}: easy-vqa has 'train' and 'test'")
        try:
            import easy_vqa
        except ImportError as error:
            raise ImportError('easy-VQA is not installed: pip install "mutua[train]"') from error
        read = easy_vqa.get_train_questions if split == "train" else easy_vqa.get_test_questions
        self.split = split
        self.images = Path(easy_vqa.__file__).parent / "data" / split / "images"
        self.questions, self.answers, self.image_ids = read()

    def __len__(self) -> int:
        return len(self.questions)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        question, answer, image_id = self.questions[index], self.answers[index], self.image_ids[index]
        picture, text = ImagePart(image=self.images / f"{image_id}.png"), TextPart(text=question)
        return Sample(
            id=f"easy-vqa-{self.split}-{index % len(self)}",
            messages=(
                Message(role="user", content=(picture, text)),
                Message(role="assistant", content=(TextPart(text=answer),)),
            ),
            family=family_of(question),
            source="easy-vqa",
        )


def family_of(question: str) -> str:
    """What a question asks: the `colour`, the `shape`, whether something is there (`exists`) or is not (`absent`)."""
    if question.startswith("what"):
        return "colour" if re.search(r"\bcolor\b", question) else "shape"
    return "absent" if re.search(r"\b(not|no)\b", question) else "exists"
