"""Records what the backend did in this process: the graphs it planned, and those it could not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter

from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan


@dataclass(frozen=True)
class Report:
    """What the backend did: the graphs it captured, and what did not run as planned.

    Attributes:
        graphs: in the order in which they were captured.
        detours: by reason, the number of calls that ran a planned graph without its plan (a
            backward with retain_graph=True, saved tensors that a hook moved elsewhere).
        unfolded: by parameter, the reason why no graph folds its gradient. Its optimizer folds it
            from `.grad` instead.
        tiers: a line about each folder that tensors have moved to.
    """

    graphs: tuple[GraphRecord, ...]
    detours: dict[str, int]
    unfolded: dict[str, str] = field(default_factory=dict)
    tiers: tuple[str, ...] = ()

    @property
    def planned(self) -> int:
        return sum(g.planned for g in self.graphs)

    @property
    def unplanned(self) -> int:
        return len(self.graphs) - self.planned

    @property
    def step(self) -> StepPlan:
        """The same graphs as a StepPlan, to look at, store and compare."""
        return StepPlan(self.graphs)

    def _repr_html_(self) -> str:
        return self.step._repr_html_()

    def __str__(self) -> str:
        lines = [f"roam: {self.planned} graphs planned, {self.unplanned} unplanned"]
        for g in self.graphs:
            lines.append(f"  {g}")
            if g.shrunk is not None:
                lines += [f"    {line}" for line in g.shrunk.left_out_lines()]
        lines += [f"  {n} calls ran without their plan: {why}" for why, n in self.detours.items()]
        lines += [f"  {line}" for line in self.tiers]
        reasons = Counter(self.unfolded.values())
        for name, why in self.unfolded.items():
            if n := reasons.pop(why, 0):  # one line for all parameters with the same reason
                several = f" and {n - 1} more" if n > 1 else ""
                lines.append(f"  {name}{several}: not folded in a graph, {why}")
        return "\n".join(lines)


_lock = threading.Lock()
_numbers = count()
_graphs: list[tuple[int, GraphRecord]] = []
_detours: Counter[str] = Counter()
_unfolded: list[Callable[[], Mapping[str, str]]] = []
_tiers: list[Callable[[], Sequence[str]]] = []


def count_graph() -> int:
    """Returns a number for a graph that was just captured, higher than all before it."""
    return next(_numbers)


def record(graph: GraphRecord, number: int, instead_of: GraphRecord | None = None) -> None:
    """Adds a graph to the report.

    Args:
        graph: what became of it.
        number: from `count_graph`. Reports sort by it, whichever backward is compiled first.
        instead_of: the record of a plan that no step will run again, which this one replaces.
    """
    with _lock:
        _graphs[:] = [(n, g) for n, g in _graphs if g is not instead_of]
        _graphs.append((number, graph))


def count_detour(reason: str) -> int:
    """Counts a call that ran without its plan. Returns how many calls had this reason so far."""
    with _lock:
        _detours[reason] += 1
        return _detours[reason]


def ask_for_unfolded(source: Callable[[], Mapping[str, str]]) -> None:
    """Registers a function that each report calls to get its `unfolded`."""
    _unfolded.append(source)


def ask_for_tiers(source: Callable[[], Sequence[str]]) -> None:
    """Registers a function that each report calls to get its `tiers`."""
    _tiers.append(source)


def report() -> Report:
    """Returns what the backend did since the process began, or since `reset_report()`."""
    with _lock:
        unfolded = {name: why for source in _unfolded for name, why in source().items()}
        graphs = tuple(graph for _, graph in sorted(_graphs, key=itemgetter(0)))
        tiers = tuple(line for source in _tiers for line in source())
        return Report(graphs, dict(_detours), unfolded, tiers)


def reset_report() -> None:
    with _lock:
        _graphs.clear()
        _detours.clear()
