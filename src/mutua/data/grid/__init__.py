"""Grid scenes: objects in the cells of a small grid, one patch a cell, drawn and asked about in bulk."""

from mutua.data.grid.source import GridScenes

__all__ = ["GridScenes"]
