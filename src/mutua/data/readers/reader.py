"""What the readers of files have in common: samples name pictures, which are opened when a sample is asked for."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mutua.data.sample import ImagePart, Message, Sample, SampleError
from mutua.data.samples import Samples
from mutua.images import ImageError, open_image


class Reader(Samples):
    """The samples of a file or folder; each is read, checked and its pictures decoded when it is asked for.

    Raises SampleError, which names the place.

    Attributes:
        path: what is read.
        pictures: the folder where relative paths of pictures start.
    """

    path: Path
    pictures: Path

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def without_images(self, index: int) -> Sample:
        """A sample whose pictures are paths still, as the file has them; they need not be there."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Where in the file or folder a sample stands, as errors say it."""

    def _sample(self, index: int) -> Sample:
        sample = self.without_images(index)
        try:
            sample = with_images(sample, self._open)
        except ImageError as error:
            refused = SampleError(f"{self.place(index)}: {error}")
            refused.sample_id = sample.id
            raise refused from error
        return sample if sample.source else sample.model_copy(update={"source": self.path.name})

    def check(self) -> None:
        """Reads every sample with its images. Raises SampleError at the first that is wrong."""
        for index in range(len(self)):
            self[index]

    def _open(self, image: Path, m: int, p: int) -> Image.Image:
        """The picture of a part. Raises ImageError."""
        try:
            return open_image(self.pictures / image)
        except ImageError as error:
            hint = "" if os.path.lexists(self.pictures / image) else self._hint()
            raise ImageError(f"{self._field(m, p)}{error}{hint}") from None

    def _field(self, m: int, p: int) -> str:
        """What an error about the picture of a part begins with, where the file has the fields of a sample."""
        return ""

    def _hint(self) -> str:
        """What an error about a picture that is not there ends with, where the folder of pictures can be set."""
        return f"; paths start at {self.pictures}, and `images` names another folder"


def with_images(sample: Sample, open: Callable[[Path, int, int], Image.Image]) -> Sample:
    """The sample with the pictures that its paths name, opened by `open` (path, message, part)."""

    def opened(m: int, message: Message) -> Message:
        parts = (
            ImagePart(image=open(part.image, m, p))
            if isinstance(part, ImagePart) and isinstance(part.image, Path)
            else part
            for p, part in enumerate(message.content)
        )
        return message.model_copy(update={"content": tuple(parts)})

    messages = tuple(opened(m, message) for m, message in enumerate(sample.messages))
    return sample.model_copy(update={"messages": messages})
