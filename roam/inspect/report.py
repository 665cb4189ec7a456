"""What the backend did in this process: every graph it planned, and those it could not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter

from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan


@dataclass(frozen=True)
class Report:
    """The graphs in the order in which they were captured, and how often a run left its plan.

    detours counts calls that ran a planned graph without its plan, by reason (a backward with
    retain_graph=True, saved tensors that a hook moved elsewhere). unfolded: parameters of the
    optimizers given to the backend whose gradients no graph folds, and why; they take the way
    through `.grad`.
    """

    graphs: tuple[GraphRecord, ...]
    detours: dict[str, int]
    unfolded: dict[str, str] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        return sum(g.planned for g in self.graphs)

    @property
    def unplanned(self) -> int:
        return len(self.graphs) - self.planned

    @property
    def step(self) -> StepPlan:
        """The same graphs as a plan: to look at, to store, to compare."""
        return StepPlan(self.graphs)

    def _repr_html_(self) -> str:
        return self.step._repr_html_()

    def __str__(self) -> str:
        lines = [f"roam: {self.planned} graphs planned, {self.unplanned} unplanned"]
        lines += [f"  {g}" for g in self.graphs]
        lines += [f"  {n} calls ran without their plan: {why}" for why, n in self.detours.items()]
        reasons = Counter(self.unfolded.values())
        for name, why in self.unfolded.items():
            if n := reasons.pop(why, 0):  # the first speaks for all that have its reason
                several = f" and {n - 1} more" if n > 1 else ""
                lines.append(f"  {name}{several}: not folded in a graph, {why}")
        return "\n".join(lines)


_lock = threading.Lock()
_numbers = count()
_graphs: list[tuple[int, GraphRecord]] = []
_detours: Counter[str] = Counter()
_unfolded: list[Callable[[], Mapping[str, str]]] = []


def count_graph() -> int:
    """A number for a graph that was just captured: higher than those before it."""
    return next(_numbers)


def record(graph: GraphRecord, number: int, instead_of: GraphRecord | None = None) -> None:
    """Notes what became of a graph. Whichever backward is compiled first, reports go by number.

    instead_of: the record of a plan that no step will run again.
    """
    with _lock:
        _graphs[:] = [(n, g) for n, g in _graphs if g is not instead_of]
        _graphs.append((number, graph))


def count_detour(reason: str) -> int:
    """Counts one call that left its plan; returns how often that reason came up."""
    with _lock:
        _detours[reason] += 1
        return _detours[reason]


def ask_for_unfolded(source: Callable[[], Mapping[str, str]]) -> None:
    """Whoever folds gradients answers for those that it does not, when a report is made."""
    _unfolded.append(source)


def report() -> Report:
    """What the backend did since the process began, or since `reset_report()`."""
    with _lock:
        unfolded = {name: why for source in _unfolded for name, why in source().items()}
        graphs = tuple(graph for _, graph in sorted(_graphs, key=itemgetter(0)))
        return Report(graphs, dict(_detours), unfolded)


def reset_report() -> None:
    with _lock:
        _graphs.clear()
        _detours.clear()
