"""What every source of samples has in common: `source[5]`, `source[-1]` and `source[2:4]`, each read when asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

from mutua.data.bulk import read_samples
from mutua.data.sample import Sample


class Samples(Sequence[Sample]):
    """Samples by their index. What reads many faster at once has `__getitems__` too (see `mutua.data.bulk`)."""

    @abstractmethod
    def _sample(self, index: int) -> Sample:
        """The sample of an index that is from 0 on, and in range."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return read_samples(self, range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._sample(range(len(self))[index])
