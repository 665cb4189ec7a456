"""Which of several choices of copies is taken, so that no peak is above aot_eager's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.inspect.measure import measure_peak
from roam.lowering.aten.aot_eager import Peaks
from roam.lowering.aten.free_search import FreeSearch
from tests.helpers import Compile, compiler, random, unfused

PEAKS = {
    "none": Peaks(200, 100, 100),
    "lowest beside others": Peaks(90, 60, 60),
    "lowest if held": Peaks(95, 40, 40),
    "lowest if dropped": Peaks(97, 45, 20),
}


class Searched(FreeSearch):
    """A search whose choices and peaks are known."""

    def _below(self, limits: Peaks, theirs: Any) -> Iterator[Any]:
        yield from list(PEAKS)[1:]

    def peaks_of(self, best: Any) -> Peaks:
        return PEAKS[best or "none"]


@pytest.mark.parametrize(
    ("their_peaks", "chosen"),
    [
        (Peaks(200, 100, 100), None),
        (Peaks(100, 50, 50), "lowest if held"),
        (Peaks(100, 50, 30), "lowest if dropped"),
        (Peaks(100, 30, 10), "lowest beside others"),
    ],
)
def test_each_choice_is_held_against_aot_eager_in_three_situations(
    their_peaks: Peaks, chosen: str | None
) -> None:
    """Only one situation was compared, so a choice was taken that is above aot_eager in another."""
    given: Any = None
    search = Searched(given, given, given, given, given, 0, room=10)
    theirs: Any = SimpleNamespace(peaks=lambda room: their_peaks)
    assert search.as_low_as(theirs, None) == chosen  # type: ignore[comparison-overlap]


class Told(nn.Module):
    """Returns a large output beside the loss, as language models return their logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(16, 64), nn.Linear(64, 256)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.head(torch.tanh(self.inner(x)) * 2 + 1)
        return y.sin().cos().mean(), y * 2


@pytest.mark.parametrize("drops", [False, True], ids=["held", "dropped"])
def test_outputs_that_the_user_drops_lower_the_peak_by_what_is_said(
    drops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Peaks] = []
    peaks_of = FreeSearch.peaks_of

    def spy(self: FreeSearch, best: Any) -> Peaks:
        said.append(peaks_of(self, best))
        return said[-1]

    monkeypatch.setattr(FreeSearch, "peaks_of", spy)

    def measured(compile_: Compile) -> int:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = Told()
        run: Callable[..., Any] = compile_(model)
        x = random(64, 16)

        def step() -> None:
            found, output = run(x)
            if drops:
                del output
            found.backward()

        step()
        model.zero_grad(set_to_none=True)
        return measure_peak(step).peak

    theirs = measured(compiler("aot_eager"))
    roam.reset_report()
    ours = measured(unfused)
    chosen = min(said)
    assert abs(ours - (chosen.dropped if drops else chosen.held)) <= 16  # a loss, and a tangent
    assert chosen.held - chosen.dropped == 64 * 256 * 4 + 4  # the output, and the loss
    assert ours <= theirs + 16
