"""Explains a plan's peak: what is alive then, what any order would hold, what would lower it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from roam.core.bounds import certain
from roam.core.lifetime import lifetimes, slots
from roam.core.plan import Plan, Status, stated_note
from roam.core.problem import BufferId, Kind, Problem
from roam.core.sizes import show_size
from roam.inspect.moment import (
    FRAGMENTATION,
    SCRATCH,
    TOP,
    held_at,
    slot_buffer_at,
    worst_moment,
)
from roam.inspect.split_groups import SplitGroup, split_groups
from roam.inspect.step_time import StepTime

WORTH_IT = 0.05  # share of the peak below which a kind of memory gets no advice
SHOWN = 12  # groups that are printed


@dataclass(frozen=True)
class Group:
    """The bytes of one kind that one module holds at the peak.

    certain: those of them that are held at this op under any order.
    """

    kind: str
    module: str
    size: int
    certain: int


@dataclass(frozen=True)
class Explanation:
    """The worst moment of one graph.

    Attributes:
        graph: the name of the graph.
        op: the name of the op that runs at the peak.
        where: the path of the op's module.
        time: the place of the op in the order.
        peak: bytes that are held then.
        lower_bound: as the plan has it. Bytes.
        stated: as the plan has it.
        status: how good the plan is.
        groups: all that is held, the largest first; together the peak.
        advice: what would lower the peak.
        step: how long the ops of the whole step take; None if nobody asked what they cost.
        splits: the groups of ops that run in blocks of rows.
        edits: lines about what runs again to keep a budget, and what moves to a tier.
    """

    graph: str
    op: str
    where: str
    time: int
    peak: int
    lower_bound: int
    stated: int
    status: Status
    groups: tuple[Group, ...]
    advice: tuple[str, ...]
    step: StepTime | None = None
    splits: tuple[SplitGroup, ...] = ()
    edits: tuple[str, ...] = ()

    @property
    def certain(self) -> int:
        """Bytes that are held at this op under any order."""
        return sum(g.certain for g in self.groups)

    @property
    def chosen(self) -> int:
        """Bytes that are held at this op because of the order: another might not hold them."""
        return self.peak - self.certain

    def __str__(self) -> str:
        where = f" in {self.where}" if self.where else ""
        lines = [
            f"{self.graph}: peak {show_size(self.peak)} at op {self.time}, {self.op}{where}",
            f"  no order takes less than {show_size(self.lower_bound)} ({self.status}"
            f"{stated_note(self.stated)}); at this op {show_size(self.certain)} are held under any "
            f"order, {show_size(self.chosen)} under this one",
        ]
        lines += [] if self.step is None else [f"  {self.step}"]
        lines += [f"  {split}" for split in self.splits]
        lines += [f"  {line}" for line in self.edits]
        held = [(g.size, f"{g.kind:13} {g.module or TOP}") for g in self.groups[:SHOWN]]
        if rest := self.groups[SHOWN:]:
            held.append((sum(g.size for g in rest), f"in {len(rest)} more groups"))
        lines += [f"  {show_size(size):>12}  {what}" for size, what in held]
        return "\n".join([*lines, *(f"  - {line}" for line in self.advice)])


def explain(
    problem: Problem,
    plan: Plan,
    step: StepTime | None = None,
    edits: Sequence[str] = (),
) -> Explanation:
    """Explains why a plan's peak is as high as it is.

    Args:
        problem: what is planned.
        plan: the plan.
        step: how long the ops of the step that it belongs to take.
        edits: lines about what the plan runs again to keep a budget, and moves to a tier.
    """
    t = worst_moment(problem, plan)
    items = held_at(problem, plan, t)
    sizes: Counter[tuple[str, str]] = Counter()
    for item in items:
        sizes[item.kind, item.module] += item.size
    op = problem.ops[plan.order[t]] if plan.order else None
    sure: Counter[tuple[str, str]] = Counter()
    if op is not None:
        sure[SCRATCH, op.where] = op.scratch
        for b in _surely_alive(problem, plan, t):
            sure[problem.buffers[b].kind.value, problem.buffers[b].where] += problem.buffers[b].size
    groups = tuple(Group(*key, size, sure[key]) for key, size in sizes.most_common())
    return Explanation(
        graph=problem.name,
        op="" if op is None else op.name,
        where="" if op is None else op.where,
        time=t,
        peak=plan.peak,
        lower_bound=plan.lower_bound,
        stated=plan.stated,
        status=plan.status,
        groups=groups,
        advice=tuple(_advice(plan, groups)),
        step=step,
        edits=tuple(edits),
        splits=split_groups(problem),
    )


def _surely_alive(problem: Problem, plan: Plan, t: int) -> list[BufferId]:
    """Returns the buffers that are alive at t, and in every order while the same op runs."""
    sure = certain(problem, plan.order[t])
    lives = lifetimes(problem, plan.order)
    there = (s for s in slots(problem, plan.order, plan.reuse) if s.lower <= t < s.upper)
    return [b for b in (slot_buffer_at(s, lives, t) for s in there) if b in sure]


def _advice(plan: Plan, groups: tuple[Group, ...]) -> list[str]:
    by_kind: Counter[str] = Counter()
    for g in groups:
        by_kind[g.kind] += g.size
    found = []
    if plan.status is Status.OPTIMAL:
        found.append("another order or layout would not lower it: this one is proven optimal")
    elif plan.peak > plan.lower_bound:
        most = show_size(plan.peak - plan.lower_bound)
        found.append(f"another order might lower it, by {most} ({plan.gap:.2%}) at the very most")

    def much(kind: str) -> bool:
        return by_kind[kind] > WORTH_IT * plan.peak

    if much(Kind.GRADIENT):
        size = show_size(by_kind[Kind.GRADIENT])
        found.append(f"{size} are gradients that wait for the optimizer: roam.optim folds them")
    if much(Kind.SAVED):
        saved = next(g for g in groups if g.kind == Kind.SAVED)
        found.append(
            f"{show_size(by_kind[Kind.SAVED])} are saved for the backward, most of it "
            f"({show_size(saved.size)}) by {saved.module or TOP}: torch.utils.checkpoint "
            "computes a module's activations again instead"
        )
    if much(Kind.OUTPUT):
        size = show_size(by_kind[Kind.OUTPUT])
        found.append(f"{size} are outputs for the user: what is not needed should not be returned")
    if much(SCRATCH):
        found.append(f"{show_size(by_kind[SCRATCH])} are the op's own workspace: another kernel")
    if much(FRAGMENTATION):
        found.append(f"{show_size(by_kind[FRAGMENTATION])} are lost to the layout: arena='step'")
    return found
