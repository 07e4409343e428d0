from collections import Counter
from itertools import pairwise

import pytest

from mutua.data.mixture import Mixture, shuffled
from mutua.data.sample import Sample


class Numbers:
    """A source whose samples are named after it and their index."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        assert 0 <= index < self.size
        return Sample.model_construct(id=f"{self.name}{index}", messages=())


def ids(mixture: Mixture, steps: range) -> list[str]:
    return [sample.id for step in steps for sample in mixture.read(mixture.draws(step), ())]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000])
def test_a_permutation_is_one(size: int) -> None:
    assert sorted(shuffled(i, size, "key") for i in range(size)) == list(range(size))


def test_permutations_differ_by_key_and_are_mixed() -> None:
    a, b = ([shuffled(i, 1000, key) for i in range(1000)] for key in "ab")
    assert a != b
    assert sum(i == value for i, value in enumerate(a)) < 10
    assert 300 < sum(abs(x - y) for x, y in pairwise(a)) / 999 < 370  # a third of the range


def test_a_huge_source_needs_no_table() -> None:
    assert len({shuffled(i, 10_000_000, "x") for i in range(1000)}) == 1000


def test_every_epoch_sees_every_item_once_in_another_order() -> None:
    mixture = Mixture([Numbers("a", 12)], [1.0], seed=0, batch_size=4)
    first, second = ids(mixture, range(3)), ids(mixture, range(3, 6))
    assert sorted(first) == sorted(second) == sorted(f"a{i}" for i in range(12))
    assert first != second


def test_proportions_are_exact_over_time() -> None:
    mixture = Mixture([Numbers(name, 7) for name in "abc"], [0.5, 0.3, 0.2], seed=0, batch_size=10)
    for steps in (1, 2, 50):
        counts = Counter(name[0] for name in ids(mixture, range(steps)))
        assert counts == {"a": 5 * steps, "b": 3 * steps, "c": 2 * steps}


def test_within_a_source_epochs_stay_whole_in_a_mixture() -> None:
    drawn = ids(Mixture([Numbers("a", 6), Numbers("b", 5)], [2, 1], seed=1, batch_size=3), range(15))
    of_a = [name for name in drawn if name[0] == "a"]
    assert all(len(set(of_a[i : i + 6])) == 6 for i in range(0, 30, 6))


def test_a_step_is_a_pure_function_of_seed_and_step() -> None:
    def make(seed: int) -> Mixture:
        return Mixture([Numbers("a", 100)], [1], seed, 8)

    assert ids(make(5), range(9, 10)) == ids(make(5), range(20))[72:80]
    assert ids(make(5), range(4)) != ids(make(6), range(4))


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"source 1 .* is empty"):
        Mixture([Numbers("a", 1), Numbers("b", 0)], [1, 1], 0, 1)
    with pytest.raises(ValueError, match="positive weight"):
        Mixture([Numbers("a", 1)], [0], 0, 1)
