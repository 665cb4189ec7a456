"""The record of one captured graph: its plan, or why it has none."""

from __future__ import annotations

from dataclasses import dataclass, field

from roam.core.origins import NO_ORIGINS, Origins
from roam.core.plan import Plan, cut_note, stated_note
from roam.core.problem import Problem
from roam.inspect.moved import Moved
from roam.inspect.recomputed import Recomputed
from roam.inspect.shrunk import ShrunkSaved
from roam.inspect.stored import Stored
from roam.solvers.budget.copies import Step


@dataclass(frozen=True)
class HandedOver:
    """An input of a graph that another graph of the step has made.

    Attributes:
        buffer: the name of the input's buffer.
        graph: the name of the graph that made it.
        gradient: the name of the buffer of its gradient, which goes to the backward of that graph;
            empty without one.
    """

    buffer: str
    graph: str
    gradient: str = ""


@dataclass(frozen=True)
class GraphRecord:
    """One captured graph: with a problem and its plan, or with the reason why there is none.

    Attributes:
        lowering: whose kernels the ops are, as the option of that name says.
        estimated: the ops whose scratch space was measured at smaller sizes, since theirs take more
            than planning may.
        estimated_costs: the ops whose cost in seconds is an estimate.
        recomputed: what runs again to keep a budget; None without a budget.
        moved: what moves to a tier; None if nothing does.
        machine: the name of the described machine by which ops were priced; empty if it was the one
            at hand.
        stored: what it loads of the optimizers' states in a tier; None if they are in memory.
        shrunk: what the user's rewrites keep of saved tensors; None without such a rewrite.
        origins: where ops and buffers come from, by name.
        handed: the inputs that other graphs have made.
        step: what may run again, and how; None if nobody knows. Files do not keep it.
    """

    name: str
    problem: Problem | None = None
    plan: Plan | None = None
    reason: str | None = None
    lowering: str = "aten"
    estimated: tuple[str, ...] = ()
    estimated_costs: tuple[str, ...] = ()
    recomputed: Recomputed | None = None
    moved: Moved | None = None
    machine: str = ""
    stored: Stored | None = None
    shrunk: ShrunkSaved | None = None
    origins: Origins = NO_ORIGINS
    handed: tuple[HandedOver, ...] = ()
    step: Step | None = field(default=None, compare=False, repr=False)

    @property
    def planned(self) -> bool:
        return self.plan is not None

    @property
    def edits(self) -> list[Moved | Stored | Recomputed | ShrunkSaved]:
        """What moves to a tier, is loaded from one, runs again, and is kept smaller."""
        return [e for e in (self.moved, self.stored, self.recomputed, self.shrunk) if e is not None]

    def edit_lines(self) -> list[str]:
        """Returns what the edits tell, a line each."""
        return [line for edit in self.edits for line in edit.lines()]

    def __str__(self) -> str:
        p = self.plan
        if p is None:
            return f"{self.name}: unplanned, {self.reason}"
        mib = 1 / 2**20
        return (
            f"{self.name}: {len(p.order)} ops, peak {p.peak * mib:.1f} MiB, "
            f"bound {p.lower_bound * mib:.1f} MiB ({p.status}{stated_note(p.stated)}), "
            f"{p.method}, {p.seconds:.2f} s{cut_note(p)}"
        )
