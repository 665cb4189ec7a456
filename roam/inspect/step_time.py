"""How long the ops of a step take together, and how much of that is only estimated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from roam.core.machine import Seconds
from roam.inspect.record import GraphRecord
from roam.inspect.seconds import show_seconds


@dataclass(frozen=True)
class StepTime:
    """Seconds of all ops, one after the other.

    Attributes:
        seconds: of all of them.
        estimated: seconds of those that were estimated, and not measured.
        machine: the name of the described machine that they are of; empty for the one at hand.
    """

    seconds: Seconds
    estimated: Seconds
    machine: str = ""

    @staticmethod
    def of(graphs: Iterable[GraphRecord]) -> StepTime | None:
        """Returns the time of these graphs, each run once; None if nobody asked what ops cost."""
        seconds, estimated, machine = 0.0, 0.0, ""
        for graph in graphs:
            machine = machine or graph.machine
            guesses = set(graph.estimated_costs)
            for op in () if graph.problem is None else graph.problem.ops:
                seconds += op.cost
                estimated += op.cost if op.name in guesses else 0.0
        return StepTime(seconds, estimated, machine) if seconds else None

    def __str__(self) -> str:
        return f"the step's ops take {show_seconds(self.seconds)} ({self._how})"

    @property
    def _how(self) -> str:
        if self.machine:
            return f"simulated: {self.machine}"
        if self.estimated == 0:
            return "measured"
        if self.estimated == self.seconds:
            return "estimated"
        percent = min(99, max(1, round(100 * self.estimated / self.seconds)))
        return f"measured; {percent} % estimated"
