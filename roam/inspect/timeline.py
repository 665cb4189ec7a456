"""Shows when the ops of a step run, and its transfers: simulated, by the costs that a plan has.

              0 s             |backward, 505 ms                1.51 s
    compute   ███████████████████████████████████████████████████████
    copy_out  █████▓█████▓█████▓████ ▒
    copy_in                      ░░ ▒░▓▒▒▒▒█░ ▓░██▓▓▒█  ▓ ██▒▓▒▓ ░▓░█
    alive     ▂▂▃▃▄▄▃▃▄▅▅▅▄▅▅▆▆▆▅▇▇▇▇▇▇▇█▇▇▇▇▇▇▆▇▇▇▆▇▇▇▆▆▇▇▆▇▇▇▆███▇

Each column is as dark as the share of its time for which the lane is busy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from roam.core.errors import OfflineError
from roam.core.machine import Seconds
from roam.core.problem import Lane, Problem
from roam.core.sizes import show_size
from roam.inspect.record import GraphRecord
from roam.inspect.seconds import show_seconds
from roam.inspect.sparkline import sparkline
from roam.solvers.offload.timeline import Link
from roam.solvers.simulate.step import COPIES, Timeline, simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 80
SHADES = " ░▒▓█"
Spans = NDArray[np.float64]  # rows of begin and end, seconds


@dataclass(frozen=True, eq=False)
class StepTimeline:
    """A planned graph with the times of its ops.

    Attributes:
        name: of the graph.
        timeline: when its ops and transfers run.
        backward: second at which the backward begins; None without one.
        compute: begin and end of each op that computes.
        bound: bytes below which no transfers without a stall go; 0 if nothing moves.
        machine: the described machine; empty for the one at hand.
    """

    name: str
    timeline: Timeline
    backward: Seconds | None
    compute: Spans
    bound: int
    machine: str

    @staticmethod
    def of(graph: GraphRecord) -> StepTimeline:
        """Simulates a graph. Raises OfflineError if it has no plan, or nobody knows its costs."""
        if graph.problem is None or graph.plan is None:
            raise OfflineError(f"{graph.name} has no plan, so its ops have no order")
        problem, plan = graph.plan.to_edited(graph.problem)
        if not any(op.cost for op in problem.ops):
            raise OfflineError(
                f"nobody knows how long the ops of {graph.name} take: plan it with roam.plan"
            )
        moved = graph.moved
        link = Link(inf, inf) if moved is None else Link(moved.write, moved.read)
        found = simulate(problem, plan.order, link)
        computes = [problem.ops[i].lane not in COPIES for i in plan.order]
        compute = np.stack([found.begin[computes], found.end[computes]], axis=1)
        backward = _backward(problem, plan.order, found)
        bound = 0 if moved is None else moved.bound
        return StepTimeline(graph.name, found, backward, compute, bound, graph.machine)

    def figure(self) -> Figure:
        """Draws it with matplotlib. Raises MissingExtraError if that is not installed."""
        from roam.inspect.timeline_picture import figure

        return figure(self)

    def spans(self, lane: Lane) -> Spans:
        """Returns begin and end of everything that a lane carries out."""
        if lane is Lane.COMPUTE:
            return self.compute
        pairs = [(t.begin, t.end) for t in self.timeline.transfers if t.lane is lane]
        return np.array(pairs, np.float64).reshape(-1, 2)

    def __str__(self) -> str:
        found = self.timeline
        names = [Lane.COMPUTE, *(lane for lane in COPIES if len(self.spans(lane)))]
        shares = {str(lane): busy(self.spans(lane), found.seconds, COLUMNS) for lane in names}
        rows = {name: _shaded(row) for name, row in shares.items()}
        top = alive(found, COLUMNS)
        rows["alive"] = sparkline(top.tolist(), COLUMNS, top.max())
        width = max(map(len, rows))
        lines = [f"{self.name}: {self._figures()}", self._scale(width)]
        return "\n".join([*lines, *(f"{name:{width}}  {row}" for name, row in rows.items())])

    def _figures(self) -> str:
        found = self.timeline
        how = f"simulated: {self.machine}" if self.machine else "simulated"
        stall = f"{show_seconds(found.stall)} of it stalled" if found.stall else "no stall"
        text = f"{show_seconds(found.seconds)} ({how}), {stall}; "
        text += f"at most {show_size(found.peak)} alive"
        return f"{text}, at least {show_size(self.bound)}" if self.bound else text

    def _scale(self, width: int) -> str:
        """Returns the line that tells when the backward begins, and when the step ends."""
        end = show_seconds(self.timeline.seconds)
        line = f"0 s{end:>{COLUMNS - 3}}"
        if self.backward is not None:
            text = f"|backward, {show_seconds(self.backward)}"
            at = int(self.backward / self.timeline.seconds * COLUMNS)
            if 3 < at < COLUMNS - len(text) - len(end):
                line = line[:at] + text + line[at + len(text) :]
        return f"{'':{width}}  {line}"


def busy(spans: Spans, seconds: Seconds, columns: int) -> NDArray[np.float64]:
    """Returns for each of equal parts of a step the share of it for which a lane is busy."""
    edges = np.linspace(0, seconds, columns + 1)
    shares = np.zeros(columns)
    for begin, end in spans:
        shares += np.clip(np.minimum(end, edges[1:]) - np.maximum(begin, edges[:-1]), 0, None)
    return np.minimum(shares * columns / seconds, 1.0) if seconds else shares


def alive(found: Timeline, columns: int) -> NDArray[np.int64]:
    """Returns for each of equal parts of a step the most bytes that are alive in it."""
    edges = np.linspace(0, found.seconds, columns + 1)
    first = np.searchsorted(found.end, edges[:-1], side="right")
    last = np.searchsorted(found.begin, edges[1:], side="left")
    most = len(found.live) - 1
    pairs = zip(np.minimum(first, most), np.maximum(last, first + 1), strict=True)
    return np.array([found.live[a:b].max() for a, b in pairs])


def _shaded(shares: Iterable[float]) -> str:
    return "".join(SHADES[int(np.ceil(share * (len(SHADES) - 1) - 1e-9))] for share in shares)


def _backward(problem: Problem, order: Iterable[int], found: Timeline) -> Seconds | None:
    phases = [problem.ops[i].phase for i in order]
    return None if 1 not in phases else float(found.begin[phases.index(1)])
