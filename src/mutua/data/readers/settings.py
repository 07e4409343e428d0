"""What the settings of all sources have in common."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from mutua.data.samples import Samples


class Settings(BaseModel):
    """By which a recipe names a source: its `type`, and what its reader takes, under the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reader: ClassVar[type[Samples]]

    def open(self) -> Samples:
        return self.reader(**{name: value for name, value in self if name != "type"})
