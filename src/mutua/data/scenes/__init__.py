"""Synthetic scenes: what is on a picture, what is asked about it, and the source that deals both out."""

from mutua.data.scenes.generator import Scenes

__all__ = ["Scenes"]
