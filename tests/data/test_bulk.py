from __future__ import annotations

import pytest

from mutua.data.bulk import read_samples, read_samples_or_errors
from mutua.data.grid import GridScenes


class OneByOne:
    """Grid scenes of which some cannot be read, one at a time."""

    def __init__(self, size: int, bad: tuple[int, ...] = ()) -> None:
        self.scenes, self.bad = GridScenes("train", size), bad
        self.reads: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.reads.append([index])
        return self._read(index)

    def _read(self, index):  # type: ignore[no-untyped-def]
        if index in self.bad:
            raise ValueError(f"bad {index}")
        return self.scenes[index]


class InBulk(OneByOne):
    def __getitems__(self, indices):  # type: ignore[no-untyped-def]
        self.reads.append(list(indices))
        return [self._read(index) for index in indices]


def test_what_can_be_read_in_bulk_is() -> None:
    for source, reads in ((OneByOne(9), [[4], [2], [4]]), (InBulk(9), [[4, 2, 4]])):
        samples = read_samples(source, [4, 2, 4])
        assert [sample.id for sample in samples] == [source.scenes[index].id for index in (4, 2, 4)]
        assert source.reads == reads
        assert [sample.id for sample in read_samples_or_errors(source, [4, 2, 4], ())] == [one.id for one in samples]


def test_bad_samples_cost_no_others() -> None:
    for source in (OneByOne(9, bad=(2, 5)), InBulk(9, bad=(2, 5))):
        found = read_samples_or_errors(source, [1, 5, 3, 2, 5], (ValueError,))
        assert [getattr(one, "id", str(one)) for one in found] == [
            source.scenes[1].id,
            "bad 5",
            source.scenes[3].id,
            "bad 2",
            "bad 5",
        ]
        with pytest.raises(ValueError, match="bad 5"):
            read_samples_or_errors(source, [1, 5], (OSError,))
        with pytest.raises(ValueError, match="bad 5"):
            read_samples(source, [1, 5])
