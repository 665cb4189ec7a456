"""A planned step for people: every graph of it with its plan, and the sums over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from roam.core.lifetime import lifetimes
from roam.core.plan import Plan
from roam.core.problem import Home, Kind, Problem
from roam.core.sizes import parse_size, show_size
from roam.inspect.gradients import GradientLife, gradient_lives, most_alive
from roam.inspect.report import GraphRecord


@dataclass(frozen=True)
class Fits:
    """Whether a step fits into a memory. margin: bytes that are left, or, negative, missing."""

    fits: bool
    margin: int
    capacity: int

    def __bool__(self) -> bool:
        return self.fits

    def __str__(self) -> str:
        how = "left" if self.fits else "missing"
        return f"{'yes' if self.fits else 'no'}, {show_size(abs(self.margin))} {how}"


@dataclass(frozen=True)
class StepPlan:
    """What a training step takes. A model with graph breaks has several graphs.

    Their transients are added up: what one graph saves is still there while the next one runs.
    That is exact for one graph, and never too little for several.
    """

    graphs: tuple[GraphRecord, ...]

    @property
    def planned(self) -> tuple[tuple[Problem, Plan], ...]:
        return tuple(
            (g.problem, g.plan) for g in self.graphs if g.problem is not None and g.plan is not None
        )

    @property
    def peak(self) -> int:
        """Transient bytes at the worst moment: arena, external buffers, gradients, outputs."""
        return sum(plan.peak for _, plan in self.planned)

    @property
    def lower_bound(self) -> int:
        return sum(plan.lower_bound for _, plan in self.planned)

    @property
    def persistent(self) -> int:
        """Bytes that are there before the step and after it: parameters, state, the batch."""
        return sum(self.persistent_by_kind.values())

    @property
    def persistent_by_kind(self) -> Mapping[Kind, int]:
        """The same by kind. What several graphs use counts once, told by its name."""
        found: dict[str, tuple[Kind, int]] = {}
        for problem, _ in self.planned:
            for b in problem.buffers:
                if b.home is Home.USER:
                    found[b.name] = b.kind, b.size
        sizes: Counter[Kind] = Counter()
        for kind, size in found.values():
            sizes[kind] += size
        return sizes

    @property
    def peak_by_kind(self) -> Mapping[Kind, int]:
        """What is alive at the worst moment of every graph, by kind, scratch space aside."""
        sizes: Counter[Kind] = Counter()
        for problem, plan in self.planned:
            curve = _live(problem, plan)
            worst = max(curve, key=lambda t: sum(curve[t].values()), default=None)
            if worst is not None:
                sizes += curve[worst]
        return sizes

    @property
    def gradients(self) -> tuple[GradientLife, ...]:
        """The life of every gradient, graph by graph."""
        return tuple(life for p, plan in self.planned for life in gradient_lives(p, plan))

    @property
    def total(self) -> int:
        return self.peak + self.persistent

    def fits(self, size: str | int) -> Fits:
        """Whether the whole step fits into so many bytes ("24GiB"). Raises SizeFormatError."""
        capacity = parse_size(size)
        return Fits(self.total <= capacity, capacity - self.total, capacity)

    def __str__(self) -> str:
        lines = [
            f"{len(self.planned)} graphs, total {show_size(self.total)}: transient "
            f"{show_size(self.peak)} (at least {show_size(self.lower_bound)}), persistent "
            f"{show_size(self.persistent)}"
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
        return "\n".join(lines)


def _live(problem: Problem, plan: Plan) -> dict[int, Counter[Kind]]:
    """For every time the live bytes by kind; a buffer that takes another's place counts once."""
    curve: dict[int, Counter[Kind]] = {t: Counter() for t in range(len(plan.order))}
    reused = set(plan.reuse.values())
    for b, (lower, upper) in enumerate(lifetimes(problem, plan.order)):
        if problem.buffers[b].home is Home.USER:
            continue
        taken = 1 if b in reused else 0  # its last moment is the first of who takes its place
        for t in range(lower, upper - taken):
            curve[t][problem.buffers[b].kind] += problem.buffers[b].size
    return curve
