"""Which of several choices of copies is taken, so that a peak is not above aot_eager's."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from roam.lowering.aten.free_recompute import _Search

PEAKS = {  # by choice: the peak with room for other graphs, and without
    "none": (200, 100),
    "lowest with room": (90, 60),
    "aot_eager's ops": (95, 40),
}


def best(name: str) -> Any:
    return SimpleNamespace(joint=name, plan=SimpleNamespace(peak=PEAKS[name][1]))


class Searched(_Search):
    """A search whose choices and peaks are known."""

    def _below(self, limit: int, theirs: Any) -> Iterator[Any]:
        yield best("lowest with room")
        yield best("aot_eager's ops")


@pytest.mark.parametrize(
    ("their_peaks", "chosen"), [((100, 50), "aot_eager's ops"), ((100, 30), "lowest with room")]
)
def test_the_last_choice_is_held_against_aot_eager_too(
    their_peaks: tuple[int, int], chosen: str
) -> None:
    """It was not, so a choice was taken that is above aot_eager's peak if no other graph runs."""
    given: Any = None
    search = Searched(given, given, best("none").plan, given, given, 0, room=10)
    search.__dict__["peak"] = PEAKS["none"][0]
    search.__dict__["searches"] = SimpleNamespace(
        first=best("none").plan,
        planned=lambda joint, room: SimpleNamespace(peak=PEAKS[joint][0]),
    )
    theirs: Any = SimpleNamespace(peak=lambda room: their_peaks[0 if room else 1])
    found = search.as_low_as(theirs, None)
    assert found is not None
    assert found.joint == chosen  # type: ignore[comparison-overlap]
