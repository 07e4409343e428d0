"""Grid scenes as a source: item i is a pure function of (seed, split, families, side, i), and nothing is stored.

Drawn in bulk: `source.__getitems__(indices)`, as PyTorch's loaders call it, costs about 0.1 ms a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mutua.data.answer_box import Box, cell_box
from mutua.data.grid.chance import Chance
from mutua.data.grid.questions import FAMILIES, MAIN_FAMILIES, Family, Items, draw
from mutua.data.grid.world import EMPTY, Split, render, splits
from mutua.data.sample import ImagePart, Message, Sample, TextPart
from mutua.data.samples import Samples

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_TRIES = 1_000  # one layout in eight is a test layout


class GridScenes(Samples):
    """`size` samples of the split; item i is of family `families[i % len(families)]`.

    Args:
        side: cells a side; the picture has 8 pixels for each.
        shuffled: every question is that of another scene of its family, so no picture tells the answer: a null check.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        seed: int = 0,
        families: Sequence[Family] = MAIN_FAMILIES,
        side: int = 4,
        shuffled: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: grid has {', '.join(map(repr, SPLITS))}")
        if size < 0:
            raise ValueError(f"size {size}: must not be negative")
        unknown = [family for family in families if family not in FAMILIES]
        if unknown or not families:
            raise ValueError(f"families {list(families)}: choose one or more of {list(FAMILIES)}")
        if not 2 <= side <= 16:
            raise ValueError(f"side {side}: a grid has 2 to 16 cells a side")
        self.split, self.size, self.seed, self.families, self.side = split, size, seed, tuple(families), side
        self.shuffled = shuffled

    def __len__(self) -> int:
        return self.size

    def _sample(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of these indices, in their order."""
        found: dict[int, Sample] = {}
        for family, some in self._by_family(indices).items():
            items = self.items(family, some)
            pictures_BHW3 = render(items.layouts_BC)
            asking = self.items(family, [index + self.size for index in some]) if self.shuffled else items
            for place, index in enumerate(some):
                picture = ImagePart(image=Image.fromarray(pictures_BHW3[place]))
                found[index] = Sample(
                    id=f"grid-{self.split}-{self.seed}-{index}",
                    messages=(
                        Message(role="user", content=(picture, TextPart(text=asking.question(place)))),
                        Message(role="assistant", content=(TextPart(text=items.answer(place)),)),
                    ),
                    family=family,
                    source="grid",
                )
        return [found[index] for index in indices]

    def where(self, index: int) -> Box | None:
        """See `mutua.data.answer_box.KnowsWhere`; nowhere, where the question is another scene's."""
        if self.shuffled:
            return None
        ((family, some),) = self._by_family([index]).items()
        cell = int(self.items(family, some).cells_B[0])
        return None if cell == EMPTY else cell_box(cell, self.side)

    def _by_family(self, indices: Sequence[int]) -> dict[Family, list[int]]:
        grouped: dict[Family, list[int]] = {}
        for index in indices:
            if not 0 <= index < self.size:
                raise IndexError(f"sample {index} of {self.size} grid scenes")
            grouped.setdefault(self.families[index % len(self.families)], []).append(index)
        return grouped

    def items(self, family: Family, indices: Sequence[int]) -> Items:
        """Scenes and questions of samples of one family, with no picture drawn."""
        at_B = np.array(indices, np.int64)

        def propose(which_B: np.ndarray, attempt: int) -> Items:
            key = f"{self.seed}/{self.split}/{family}/{self.side}/{attempt}"
            return draw(family, Chance(key, at_B[which_B]), len(which_B), self.side)

        missing_B = np.arange(len(at_B))
        items = propose(missing_B, 0)
        for attempt in range(1, _TRIES):
            # Drawn again, question and all, until the layout is one of the split: the splits share none.
            missing_B = missing_B[splits(items.layouts_BC[missing_B]) != self.split]
            if not len(missing_B):
                return items
            items = items.take(missing_B, propose(missing_B, attempt))
        raise RuntimeError(f"no {self.split} layout in {_TRIES} tries (seed {self.seed}, {family})")
