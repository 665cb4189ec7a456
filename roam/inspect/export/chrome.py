"""Exports a plan as a trace for Chrome and Perfetto: ops as slices, held bytes as counters by kind.

The format is Google's "Trace Event Format" in its JSON object form. A plan has no times in seconds,
so each op takes a microsecond. A transfer is an asynchronous slice, from its start to its wait:
several may be queued at a time, and slices of one thread must not overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from roam.core.plan import Plan
from roam.core.problem import Op, Problem
from roam.inspect.moment import curves_by_kind
from roam.solvers.simulate.step import COPIES, START, WAIT

PHASES = ("forward", "backward")


def to_chrome(problem: Problem, plan: Plan) -> bytes:
    """Returns the trace, JSON. At every op the counters add up to the plan's held bytes."""
    trace = {"traceEvents": list(_events(problem, plan)), "displayTimeUnit": "ns"}
    return msgspec.json.encode(trace)


def _events(problem: Problem, plan: Plan) -> Iterator[dict[str, Any]]:
    yield _named("process_name", 0, plan.problem)
    for phase in range(len(problem.phases)):
        name = PHASES[phase] if phase < len(PHASES) else f"phase {phase}"
        yield _named("thread_name", phase, name)
    curves = {kind: curve for kind, curve in curves_by_kind(problem, plan).items() if any(curve)}
    for t, i in enumerate(plan.order):
        op = problem.ops[i]
        made = {problem.buffers[b].name: problem.buffers[b].size for b in op.creates}
        yield {
            "ph": "X", "name": op.name, "cat": "op", "pid": 0, "tid": op.phase, "ts": t, "dur": 1,
            "args": {"module": op.where, "creates": made, "scratch": op.scratch},
        }  # fmt: skip
        if op.lane in COPIES and op.name.endswith((START, WAIT)):
            yield _transfer(op, t)
        held = {kind: curve[t] for kind, curve in curves.items()}
        yield {"ph": "C", "name": "bytes", "pid": 0, "ts": t, "args": held}
    ended = dict.fromkeys(curves, 0)
    yield {"ph": "C", "name": "bytes", "pid": 0, "ts": len(plan.order), "args": ended}


def _transfer(op: Op, t: int) -> dict[str, Any]:
    """Returns where a transfer begins, when its start has run, or where it ends."""
    begins = op.name.endswith(START)
    name = op.name.removesuffix(START if begins else WAIT)
    return {
        "ph": "b" if begins else "e", "name": name, "id": name, "cat": str(op.lane), "pid": 0,
        "ts": t + 1,
    }  # fmt: skip


def _named(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": 0, "tid": thread, "args": {"name": name}}
