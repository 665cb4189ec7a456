"""A planned training step: all of its graphs with their plans, and the sums over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from roam.core.errors import OfflineError, UnplannedStepError
from roam.core.machine import Seconds
from roam.core.plan import Plan, stated_note
from roam.core.problem import Buffer, Kind, Problem
from roam.core.sizes import parse_size, show_size
from roam.inspect import step_file
from roam.inspect.gradients import GradientLife, gradient_lives, most_alive
from roam.inspect.moment import MemoryItem
from roam.inspect.nesting import held_at_worst, persistent_buffers
from roam.inspect.proof import SECONDS
from roam.inspect.record import GraphRecord
from roam.inspect.step_time import StepTime

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from roam.inspect.explain import Explanation
    from roam.inspect.timeline import StepTimeline
    from roam.solvers.budget.pareto import Point


@dataclass(frozen=True)
class Fits:
    """Whether a step fits into `capacity` bytes.

    margin: bytes that are left; negative: bytes that are missing.
    """

    fits: bool
    margin: int
    capacity: int

    def __bool__(self) -> bool:
        return self.fits

    def __str__(self) -> str:
        how = "left" if self.fits else "missing"
        return f"{'yes' if self.fits else 'no'}, {show_size(abs(self.margin))} {how}"


@dataclass(frozen=True, repr=False)
class StepPlan:
    """The memory of a training step. A model with graph breaks has several graphs.

    The graphs are nested (`nesting.py`): the tensors that one graph saves stay while the next
    graphs run, and its backward runs after theirs, beside their gradients. Each graph is assumed to
    run once. The figures are exact for one graph and never too low for several, because tensors
    that one graph passes to the next count until the end, and what only the user's code hands to
    several graphs counts for each.
    """

    graphs: tuple[GraphRecord, ...]

    @property
    def planned(self) -> tuple[tuple[Problem, Plan], ...]:
        return tuple(
            g.plan.to_edited(g.problem)
            for g in self.graphs
            if g.problem is not None and g.plan is not None
        )

    @property
    def lowering(self) -> str:
        """Whose kernels run: "aten", "inductor", or both if the graphs differ."""
        return ", ".join(sorted({g.lowering for g in self.graphs}))

    @property
    def peak(self) -> int:
        """Transient bytes at the worst moment: arena, external buffers, gradients, outputs."""
        return sum(held.size for held in self.held_at_worst)

    @property
    def lower_bound(self) -> int:
        """Transient bytes that no order of any graph can go below."""
        return max((plan.lower_bound for _, plan in self.planned), default=0)

    @property
    def stated(self) -> int:
        """A higher lower bound that the file states and nothing proves; 0 if there is none."""
        highest = max((plan.stated for _, plan in self.planned), default=0)
        return highest if highest > self.lower_bound else 0

    @cached_property
    def held_at_worst(self) -> tuple[MemoryItem, ...]:
        """The items that are held at the worst moment. They sum to the peak."""
        return tuple(held_at_worst(self.graphs))

    @property
    def persistent(self) -> int:
        """Bytes that exist before the step and after it: parameters, optimizer state, the batch."""
        return sum(b.size for b in self.persistent_buffers)

    @property
    def persistent_buffers(self) -> tuple[Buffer, ...]:
        """The persistent buffers. A parameter that several graphs use counts once."""
        return tuple(persistent_buffers(self.graphs).values())

    @property
    def persistent_by_kind(self) -> Mapping[Kind, int]:
        sizes: Counter[Kind] = Counter()
        for b in self.persistent_buffers:
            sizes[b.kind] += b.size
        return sizes

    @property
    def peak_by_kind(self) -> Mapping[Kind, int]:
        """Bytes of the buffers that are alive at the worst moment, by kind, without scratch."""
        sizes: Counter[Kind] = Counter()
        for held in self.held_at_worst:
            if held.kind in set(Kind):
                sizes[Kind(held.kind)] += held.size
        return sizes

    @property
    def gradients(self) -> tuple[GradientLife, ...]:
        """The lifetime of every gradient, graph by graph."""
        return tuple(life for p, plan in self.planned for life in gradient_lives(p, plan))

    @property
    def time(self) -> StepTime | None:
        """How long the ops take; None if nobody asked what they cost (a plan that ran)."""
        return StepTime.of(self.graphs)

    @property
    def extra_time(self) -> float:
        """Seconds of what runs again, and of waiting for transfers to a tier."""
        again = sum(g.recomputed.seconds for g in self.graphs if g.recomputed is not None)
        return again + sum(g.moved.stall for g in self.graphs if g.moved is not None)

    @property
    def extra_time_bound(self) -> float:
        """Seconds below which the budget is not kept, by the same costs of ops and rates of tiers.

        Whatever runs again, and whatever moves to a tier that may be used.
        """
        return sum(g.recomputed.bound for g in self.graphs if g.recomputed is not None)

    @property
    def extra_share(self) -> float:
        """`extra_time` as a share of the step if nothing did; 0 if nobody knows what ops cost."""
        return self._of_step(self.extra_time)

    @property
    def extra_share_bound(self) -> float:
        """`extra_time_bound` as a share of the step without a budget."""
        return self._of_step(self.extra_time_bound)

    def _of_step(self, seconds: Seconds) -> float:
        step = sum(g.recomputed.step for g in self.graphs if g.recomputed is not None)
        return seconds / step if step else 0.0

    @property
    def total(self) -> int:
        return self.peak + self.persistent

    def check_planned(self) -> None:
        """Raises UnplannedStepError if a graph has no plan, and so the step's memory is unknown."""
        for graph in self.graphs:
            if not graph.planned:
                raise UnplannedStepError(f"nobody knows what the step takes: {graph}")
        if not self.graphs:
            raise UnplannedStepError("nobody knows what the step takes: it has no graphs")

    def fits(self, size: str | int) -> Fits:
        """Whether the whole step fits into so many bytes ("24GiB").

        Raises SizeFormatError, and UnplannedStepError where a graph has no plan.
        """
        capacity = parse_size(size)
        self.check_planned()
        return Fits(self.total <= capacity, capacity - self.total, capacity)

    def __repr__(self) -> str:
        return f"<StepPlan: {str(self).splitlines()[0]}>"

    def __str__(self) -> str:
        lines = [
            f"{_count(len(self.planned), len(self.graphs))}, total {show_size(self.total)}: "
            f"transient {show_size(self.peak)} (at least {show_size(self.lower_bound)}"
            f"{stated_note(self.stated)}), "
            f"persistent {show_size(self.persistent)}; lowering {self.lowering}"
        ]
        for kind, size in sorted(self.persistent_by_kind.items(), key=lambda x: -x[1]):
            lines.append(f"  {kind.value:10} {show_size(size):>12}  all the time")
        for kind, size in sorted(self.peak_by_kind.items(), key=lambda x: -x[1]):
            lines.append(f"  {kind.value:10} {show_size(size):>12}  at the peak")
        if folded := [g for g in self.gradients if g.folded_by is not None]:
            at_once = max(most_alive(gradient_lives(*graph)) for graph in self.planned)
            lines.append(
                f"  {len(folded)} of {len(self.gradients)} gradients are folded, "
                f"{max(g.ops for g in folded)} ops after they are made at the latest; "
                f"{show_size(at_once)} of them at once at most"
            )
        if guesses := sum(len(g.estimated) for g in self.graphs):
            lines.append(f"  scratch space of {_ops(guesses)} estimated from smaller sizes")
        if self.time is not None:
            lines.append(f"  {self.time}")
        lines += [f"  {e.lines()[0]}" for g in self.graphs for e in g.edits]
        return "\n".join(lines)

    @property
    def largest(self) -> tuple[Problem, Plan] | None:
        """The graph with the highest peak, None if no graph was planned."""
        return max(self.planned, key=lambda pair: pair[1].peak, default=None)

    def explain(self) -> Explanation:
        """Explains the peak of the graph with the highest one: where it is, what is alive, and why.

        Raises OfflineError if nothing was planned.
        """
        from roam.inspect.explain import explain

        if self.largest is None:
            raise OfflineError("there is no peak to explain: no graph of the step was planned")
        problem, plan = self.largest
        return explain(problem, plan, self.time, self.record_of(problem).edit_lines())

    def record_of(self, problem: Problem) -> GraphRecord:
        """Returns the record of the graph that has one of the Problems of `planned`."""
        records = (g for g in self.graphs if g.planned)
        return next(r for r, (p, _) in zip(records, self.planned, strict=True) if p == problem)

    def pareto(self, n: int = 10) -> tuple[Point, ...]:
        """Returns what a smaller peak of the graph with the highest one costs, the smallest first.

        The costs are those of `time`.

        Args:
            n: about how many points there are, evenly spaced between the smallest peak that is
                found and that of the plan.

        Raises:
            OfflineError: it is not known what may run again: the plan is of Inductor's kernels, of
                a step that ran, has a budget, or comes from a file.
        """
        from roam.solvers.budget.pareto import pareto

        step = None if self.largest is None else self.record_of(self.largest[0]).step
        if step is None:
            raise OfflineError(
                "nobody knows what may run again: plan the step with "
                "roam.plan(..., lowering='aten'), without a budget"
            )
        return pareto(step, n)

    def timeline(self) -> Figure:
        """Draws the graph with the highest peak as a matplotlib figure: its arena and its curves.

        Raises MissingExtraError without matplotlib, and OfflineError if nothing was planned.
        """
        from roam.inspect.picture import figure

        if self.largest is None:
            raise OfflineError("there is no plan to draw: no graph of the step was planned")
        return figure(*self.largest)

    def simulated(self) -> StepTimeline:
        """Returns when the ops and transfers of the graph with the highest peak would run.

        Printed, it is a drawing in text; `figure()` of it draws a picture.

        Raises OfflineError if nothing was planned, or nobody asked what ops cost.
        """
        from roam.inspect.timeline import StepTimeline

        if self.largest is None:
            raise OfflineError("there is no plan to simulate: no graph of the step was planned")
        return StepTimeline.of(self.record_of(self.largest[0]))

    @property
    def html(self) -> str:
        """The page of the step: one HTML file that loads nothing."""
        from roam.inspect.page import step_page

        return step_page(self)

    def _repr_html_(self) -> str:
        from roam.inspect.page import in_frame

        return in_frame(self.html)

    def to_json(self) -> bytes:
        """Returns the file of the step, problems and plans, which `from_json` reads."""
        return step_file.written(self.graphs)

    @staticmethod
    def from_json(text: bytes | str, seconds: float = SECONDS) -> StepPlan:
        """Reads what `to_json` writes, checks every plan and proves its bound again.

        Args:
            text: the file.
            seconds: for the proofs of each graph. A bound that they do not reach stays `stated`.

        Raises:
            FileFormatError, FileVersionError: the text is not exactly such a file.
            GraphMismatchError: a plan belongs to another problem than the one beside it.
            PlanError: a plan is not valid, or states wrong figures or a bound that is refuted.
        """
        return StepPlan(step_file.read(text, seconds))


def _count(planned: int, graphs: int) -> str:
    more = f" (and {graphs - planned} without a plan, not counted)" if graphs > planned else ""
    return f"{planned} graph{'' if planned == 1 else 's'}{more}"


def _ops(number: int) -> str:
    return f"{number} op{' is' if number == 1 else 's is'}"
