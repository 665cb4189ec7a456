"""Prints plans in a terminal: figures, the trade-off curve, the tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from roam.core.sizes import show_size

if TYPE_CHECKING:
    from rich.table import Table

    from roam.core.machine import Seconds
    from roam.core.plan import Plan
    from roam.core.problem import Problem
    from roam.inspect.step_plan import StepPlan
    from roam.solvers.budget.pareto import Point

CURVE = 72  # columns of the curve of held bytes
MODULES = 5  # that hold most, in a summary
WIDE = 160  # columns of a line about a segment: it does not break where the output is no terminal


def print_step(step: StepPlan, json: bool, points: Sequence[Point] = ()) -> None:
    import msgspec
    from rich.console import Console

    if json:
        more = {"pareto": points} if points else {}
        typer.echo(msgspec.json.encode(_as_json(step) | more))
        return
    console = Console()
    console.print(str(step), markup=False, highlight=False, soft_wrap=True)
    largest = None if step.largest is None else step.record_of(step.largest[0])
    for graph in step.graphs:
        if graph is not largest:
            console.print(str(graph), markup=False, highlight=False, soft_wrap=True)
    for line in () if step.largest is None else _summary(*step.largest):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if points:
        console.print(_trade_off(points, 0.0 if step.time is None else step.time.seconds))


def _trade_off(points: Sequence[Point], seconds: Seconds) -> Table:
    """Returns a table of what smaller peaks cost, as they are and as a share of the step."""
    from rich import box
    from rich.table import Table

    from roam.inspect.seconds import show_seconds

    whole = points[-1].peak
    table = Table(title="What smaller peaks cost", title_justify="left", box=box.SIMPLE)
    for heading in ("peak", "of the plan's", "ops run again", "extra time", "", "at least"):
        table.add_column(heading, justify="right")
    for point in points:
        shares = (f"{x / seconds:.2%}" if seconds else "" for x in (point.seconds, point.bound))
        table.add_row(
            show_size(point.peak),
            f"{point.peak / whole:.0%}" if whole else "",
            str(point.copies),
            show_seconds(point.seconds),
            *shares,
        )
    return table


def print_tree(problem: Problem, plan: Plan, depth: int | None) -> None:
    from rich.console import Console

    from roam.inspect.tree_view import show_tree

    console = Console(width=max(WIDE, Console().width))
    console.print(show_tree(problem, plan, depth), highlight=False, crop=False)


def _as_json(step: StepPlan) -> dict[str, Any]:
    from roam.inspect.breakdown import breakdown

    graphs = [
        {
            "name": g.name,
            **({"unplanned": g.reason} if g.plan is None else _figures(g.plan)),
        }
        for g in step.graphs
    ]
    return {
        "total": step.total,
        "lowering": step.lowering,
        "time": step.time,
        "graphs": graphs,
        "breakdown": breakdown(step),
    }


def _figures(found: Plan) -> dict[str, object]:
    keys = ("peak", "lower_bound", "stated", "live_peak", "arena", "persistent", "status", "method")
    more = ("proof", "cut_short")
    return {"ops": len(found.order), **{k: getattr(found, k) for k in (*keys, *more)}}


def _summary(problem: Problem, plan: Plan) -> Iterator[str]:
    """Yields what a terminal shows of a planned graph, in some 12 lines."""
    from roam.core.plan import cut_note
    from roam.core.proof import show_proof
    from roam.inspect.moment import TOP, worst_moment
    from roam.inspect.sparkline import parts, sparkline

    yield f"{plan.problem}: {len(plan.order):,} ops, {plan.fingerprint}"
    if plan.order:
        worst = worst_moment(problem, plan)
        op = problem.ops[plan.order[worst]]
        yield f"  {sparkline(plan.committed(problem), CURVE, plan.peak)}  held, op by op"
        here = next(c for c, (_, end) in enumerate(parts(len(plan.order), CURVE)) if worst < end)
        peak = f"peak {show_size(plan.peak)} at op {worst:,}, {op.name} in {op.where or TOP}"
        before = f"{peak} " if len(peak) < here else ""
        yield f"  {before:>{here}}^{'' if before else f' {peak}'}"
    yield (
        f"  {plan.status}: at least {show_size(plan.lower_bound)}, proven by "
        f"{show_proof(plan.proof, problem)}, gap {plan.gap:.2%}"
    )
    if plan.stated:
        yield f"  stated bound {show_size(plan.stated)}, not proven here"
    yield from _modules(problem, plan)
    yield (
        f"  arena {show_size(plan.arena)}: {len(plan.offsets):,} buffers in "
        f"{len(plan.blocks):,} block{'' if len(plan.blocks) == 1 else 's'}, "
        f"fragmentation {plan.fragmentation:.2%}"
    )
    yield f"  {plan.method}, {plan.seconds:.2f} s{cut_note(plan)}"


def _modules(problem: Problem, plan: Plan) -> Iterator[str]:
    """Yields the modules that hold most at the peak, layers of one kind together."""
    from roam.inspect.moment import FRAGMENTATION, TOP, held_at, layers_as_one, worst_moment

    sizes: Counter[str] = Counter()
    for held in held_at(problem, plan, worst_moment(problem, plan)):
        lost = held.kind == FRAGMENTATION
        sizes[f"({FRAGMENTATION})" if lost else layers_as_one(held.module) or TOP] += held.size
    for module, size in sizes.most_common(MODULES):
        yield f"  {show_size(size):>12}  {size / plan.peak:4.0%}  {module}"
    if rest := sizes.most_common()[MODULES:]:
        size = sum(n for _, n in rest)
        yield f"  {show_size(size):>12}  {size / plan.peak:4.0%}  in {len(rest)} more modules"
