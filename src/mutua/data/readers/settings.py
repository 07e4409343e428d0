"""What the settings of all sources have in common."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """By which a recipe names a source; `open()` gives its reader."""

    model_config = ConfigDict(frozen=True, extra="forbid")
