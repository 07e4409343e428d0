"""The one sample schema: a chat with images, as every reader yields it and every trainer and benchmark takes it.

A sample is validated once, where it is made; whatever holds a `Sample` may rely on it. It knows nothing of tokens.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mutua.images import open_image, url_problem
from mutua.shortened import shortened


class SampleError(ValueError):
    """A sample in a file is wrong; the message names file, line, field, value and what is the matter.

    Attributes:
        sample_id: the sample's id, empty where what is wrong hides it.
    """

    sample_id: str = ""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _none_is_absent(cls, given: Any) -> Any:
        # Arrow gives every message and part the keys of all others.
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class TextPart(_Frozen):
    type: Literal["text"] = "text"
    text: str

    @field_validator("text")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("empty text: write something or leave the part out")
        text.encode()  # a lone surrogate, which no tokenizer takes, is an error here
        return text


class ImagePart(_Frozen):
    """An image as a file path, read when it is needed, or as a PIL image in memory.

    Whatever else `open_image` takes, such as bytes, becomes a PIL image.
    """

    type: Literal["image"] = "image"
    image: Path | Image.Image

    @field_validator("image", mode="before")
    @classmethod
    def _path_or_picture(cls, image: Any) -> Any:
        if isinstance(image, Path | Image.Image):
            return image
        if not isinstance(image, str) or not image or image[:5].lower() == "data:":
            return open_image(image)
        # Checked before the string becomes a Path, which would fold "http://" into "http:/".
        if problem := url_problem(image):
            raise ValueError(problem)
        return image


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Frozen):
    """One turn. A plain string as `content` is short for one text part."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Part, ...]

    @field_validator("content", mode="before")
    @classmethod
    def _text_shorthand(cls, content: Any) -> Any:
        return ({"type": "text", "text": content},) if isinstance(content, str) else content

    @model_validator(mode="after")
    def _parts_fit_role(self) -> "Message":
        if not self.content:
            raise ValueError(f"{self.role} message with no content: give it text or drop it")
        if self.role != "user" and any(isinstance(part, ImagePart) for part in self.content):
            raise ValueError(f"image in the {self.role} message: images belong in user messages")
        return self

    @property
    def text(self) -> str:
        """The text parts, joined with nothing between them."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    def chat(self) -> dict[str, Any]:
        """This message as Transformers' chat templates and processors take it."""
        content: list[dict[str, Any]] = []
        for part in self.content:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
            else:
                image = str(part.image) if isinstance(part.image, Path) else part.image
                content.append({"type": "image", "image": image})
        return {"role": self.role, "content": content}


class Sample(_Frozen):
    """One training or evaluation sample.

    Attributes:
        id: names the sample inside its source.
        messages: an optional system message, then user and assistant in turns, user first.
        family: the kind of question, for scores by family; empty where a source has none.
        source: the data set or file it came from.
    """

    id: str
    messages: tuple[Message, ...]
    family: str = ""
    source: str = ""

    @field_validator("id", "family", "source")
    @classmethod
    def _is_text(cls, text: str) -> str:
        text.encode()  # as in a text, what cannot be printed or written is an error here
        return text

    @field_validator("messages")
    @classmethod
    def _turns(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        roles = [message.role for message in messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns:
            raise ValueError(f"roles {roles}: at least one user message is needed")
        for place, role in enumerate(turns):
            expected = "user" if place % 2 == 0 else "assistant"
            if role != expected:
                where = place + len(roles) - len(turns)
                raise ValueError(
                    f"message {where} is {role!r} where {expected!r} is due: an optional system message comes first, "
                    "then user and assistant alternate, starting with user"
                )
        return messages

    @property
    def question(self) -> str:
        """The text of the last user message."""
        return next(message.text for message in reversed(self.messages) if message.role == "user")

    @property
    def answer(self) -> str:
        """The text of the final assistant message. Raises ValueError where the chat ends with the user."""
        if self.messages[-1].role != "assistant":
            raise ValueError(f"sample {self.id!r} has no answer: its last message is from the user")
        return self.messages[-1].text

    def chat(self) -> list[dict[str, Any]]:
        """All messages in Transformers' chat format; images are PIL images or path strings."""
        return [message.chat() for message in self.messages]

    def prompt(self) -> list[dict[str, Any]]:
        """`chat()` without the final assistant message: what a model is given before it answers."""
        messages = self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages
        return [message.chat() for message in messages]


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The field and the message of the first thing that pydantic found wrong with a sample."""
    first = error.errors()[0]
    # pydantic puts the chosen part type after its index (content.0.image.image): no key of ours, so it is left out.
    location = list(first["loc"])
    if len(location) > 4 and location[2] == "content":
        del location[4]
    problem = first["msg"].removeprefix("Value error, ")
    shown = repr(first["input"]) if isinstance(first["input"], str | int | float | bool | None) else ""
    if shown and not problem.startswith(shown.strip("'")):
        problem += f" (got {shortened(shown, 100)})"
    return ".".join(map(str, location)), problem
