"""A fingerprint tells bytes apart, however they come in pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.runtime.fingerprint import WORDS, Data, Fingerprint, fingerprint

ROW = 8 * WORDS
MANY = 3 * WORDS + 100
SIZES = st.integers(1, 10_000) | st.integers(1, 2 * ROW + 17)


def some(size: int, seed: int = 0) -> Data:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@given(size=SIZES, data=st.data())
def test_every_changed_bit_is_found(size: int, data: st.DataObject) -> None:
    before = some(size)
    after = before.copy()
    after[data.draw(st.integers(0, size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert fingerprint(before) != fingerprint(after)


@pytest.mark.parametrize("unit", [1, 8, 512, 4096, ROW])
def test_bytes_that_change_places_are_found(unit: int) -> None:
    before = some(4 * ROW)
    after = before.copy()
    after[:unit], after[2 * unit : 3 * unit] = before[2 * unit : 3 * unit], before[:unit]
    assert fingerprint(before) != fingerprint(after)


def test_pages_of_zeros_are_found() -> None:
    before = some(4 * ROW)
    after = before.copy()
    after[4096:8192] = 0
    assert len({fingerprint(before), fingerprint(after), fingerprint(0 * before)}) == 3


@given(cuts=st.lists(st.integers(0, MANY), max_size=5), step=st.sampled_from([1, 64]))
def test_pieces_make_no_difference(cuts: list[int], step: int) -> None:
    whole = some(MANY * 8 + 5)
    at = [0, *(8 * step * (cut // step) for cut in sorted(cuts)), whole.size]
    found, once = Fingerprint(step), Fingerprint(step)
    for start, end in pairwise(at):
        found.add(whole[start:end])
    once.add(whole)
    assert found.value == once.value


@given(size=SIZES, step=st.sampled_from([1, 3, 64]))
def test_only_each_nth_word_counts(size: int, step: int) -> None:
    def found(data: Data) -> int:
        mark = Fingerprint(step)
        mark.add(data)
        return mark.value

    before, words = some(size), size // 8
    for word in {0, 1, step, step + 1, words - 1} & set(range(words)):
        after = before.copy()
        after[8 * word + 3] ^= 1
        assert (found(before) != found(after)) == (word % step == 0)
    after = before.copy()
    after[-1] ^= 1
    assert size % 8 == 0 or found(before) != found(after)  # bytes behind the words always count


@pytest.mark.parametrize("shift", [1, 3, 8])
def test_the_address_makes_no_difference(shift: int) -> None:
    data = some(2 * ROW + 5)
    room = np.zeros(data.size + shift, np.uint8)
    room[shift:] = data
    assert fingerprint(room[shift:]) == fingerprint(data)


def test_it_is_the_sum_that_the_page_says() -> None:
    """Computed by the definition, with whole numbers of any size."""
    from roam.runtime.fingerprint import MODULUS, WEIGHTS, _mixed

    data = some(2 * ROW)
    words = [int(w) for w in data.view(np.uint64)]
    rows = [int(w) | 1 for w in _mixed(np.arange(1, 3, dtype=np.uint64))]
    expected = sum(
        rows[i // WORDS] * int(WEIGHTS[i % WORDS]) * word for i, word in enumerate(words)
    )
    assert fingerprint(data) == expected % MODULUS
