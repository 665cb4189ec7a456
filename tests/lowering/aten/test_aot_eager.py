"""What aot_eager takes: known when a graph is compiled, to the byte, and bounded from below."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from roam.core.machine import Bytes
from roam.inspect.measure import measure_peak
from roam.lowering.aten import free_recompute
from roam.lowering.aten.aot_eager import AotEager, Partitioned, at_least
from tests.behaviour.small_nets import Checkpointed, Convolutional, Loss, blocks, image, rows
from tests.behaviour.test_free_recompute import RootMeanSquare, deep
from tests.helpers import compiler, random, unfused

Seen = list[tuple[Bytes, Bytes]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """By graph that is compiled, the bound and the peak, both looked at whatever they are."""
    bounds: list[Bytes] = []
    found: Seen = []
    partitioned = AotEager.partitioned

    def no_bound(*given: object) -> Bytes:
        bounds.append(at_least(*given))  # type: ignore[arg-type]
        return 0

    def spy(self: AotEager) -> Partitioned:
        theirs = partitioned(self)
        found.append((bounds[-1], theirs.peak(0)))
        return theirs

    monkeypatch.setattr(free_recompute, "at_least", no_bound)
    monkeypatch.setattr(AotEager, "partitioned", spy)
    return found


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (blocks, rows),
        (Convolutional, image),
        (Checkpointed, rows),
        (lambda: deep(RootMeanSquare), lambda: random(64, 16)),
    ],
    ids=["blocks", "convolutional", "checkpoint", "norms"],
)
def test_its_peak_is_known(
    make: Callable[[], nn.Module], x: Callable[[], Tensor], seen: Seen
) -> None:
    given = x()
    unfused(Loss(make))(given).backward()
    [(bound, peak)] = seen
    torch._dynamo.reset()
    model = Loss(make)
    run = compiler("aot_eager")(model)
    run(given).backward()
    model.zero_grad(set_to_none=True)
    measured = measure_peak(lambda: run(given).backward()).peak
    assert abs(peak - measured) <= 16
    assert bound <= peak
    assert (bound > 0.5 * peak) == (make is not Checkpointed)  # checkpoints: no bound
