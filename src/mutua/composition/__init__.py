"""Models put together from parts: a vision encoder, a connector, a language model and its tokenizer."""

from mutua.composition.compose import compose
from mutua.composition.parts import ComposeError

__all__ = ["ComposeError", "compose"]
