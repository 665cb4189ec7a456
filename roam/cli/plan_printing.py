"""Prints plans in a terminal: figures, the trade-off curve, the tree."""

from __future__ import annotations

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
    for graph in step.graphs:
        if graph.reason:
            console.print(f"{graph.name}: unplanned, {graph.reason}", markup=False)
    for problem, found in step.planned:
        console.print(_summary(problem, found))
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


def _summary(problem: Problem, found: Plan) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(found.problem),
        title_justify="left",
        box=box.SIMPLE,
        show_header=False,
        pad_edge=False,
    )
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in _rows(problem, found):
        table.add_row(name, Text(value))
    return table


def _rows(problem: Problem, plan: Plan) -> Iterator[tuple[str, str]]:
    from roam.core.plan import cut_note
    from roam.core.proof import show_proof
    from roam.inspect.moment import TOP, held_at, worst_moment

    yield "ops", f"{len(plan.order):,}"
    yield "peak", f"{show_size(plan.peak)}, {plan.status}"
    yield "lower bound", f"{show_size(plan.lower_bound)}, gap {plan.gap:.2%}"
    yield "proven by", show_proof(plan.proof, problem)
    if plan.stated:
        yield "stated bound", f"{show_size(plan.stated)}, not proven here"
    yield "live peak", f"{show_size(plan.live_peak)}, fragmentation {plan.fragmentation:.2%}"
    yield "arena", show_size(plan.arena)
    yield "its blocks", f"{len(plan.blocks):,}"
    yield "its buffers", f"{len(plan.offsets):,}"
    yield "persistent", show_size(plan.persistent)
    yield "total", show_size(plan.total)
    yield "method", f"{plan.method}, {plan.seconds:.2f} s{cut_note(plan)}"
    yield "fingerprint", plan.fingerprint
    if plan.order:
        worst = worst_moment(problem, plan)
        op = problem.ops[plan.order[worst]]
        yield "worst moment", f"op {worst}, {op.name} in {op.where or TOP}"
        for held in held_at(problem, plan, worst)[:10]:
            yield "  holds", f"{show_size(held.size):>11}  {held.kind}, {held.name}, {held.module}"
