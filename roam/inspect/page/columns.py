"""Turns a planned graph into columns of numbers, which the page's script reads.

    ops      one entry an op, in planned order         name, module, reads' makers, seconds, ...
    buffers  one entry a buffer that has bytes         size, life, address, maker, readers, ...
    curves   one entry an op                           bytes held, bytes alive

Times are places in the planned order. Numbers that grow slowly are written as differences, lists of
lists as their lengths and their entries: both compress well. `assets/plan.js` is the reader.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

from roam.core.lifetime import lifetimes, live_curve, slots
from roam.core.machine import Seconds
from roam.core.origins import Origins, by_name
from roam.core.plan import Plan, stated_note
from roam.core.problem import BufferId, Home, Kind, Lane, Op, OpId, Problem, Tier
from roam.core.proof import UNKNOWN, show_proof
from roam.core.sizes import show_size
from roam.inspect.boxes import stack
from roam.inspect.gradients import gradient_lives
from roam.inspect.moment import module_of
from roam.inspect.record import GraphRecord
from roam.inspect.timeline import StepTimeline
from roam.solvers.simulate.step import START, WAIT

Columns = dict[str, Any]
TICK: Seconds = 1e-7  # of the page's clock: ops of less than this take no room on its time axis
# what an op is, one bit each; `plan.js` has the same names
COPY, MAY_RUN_AGAIN, FOLD, OUT, BACK, STARTS, WAITS = (1 << k for k in range(7))


class Table:
    """Numbers values in the order in which they are first seen."""

    def __init__(self) -> None:
        self.ids: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        return self.ids.setdefault(value, len(self.ids))

    @property
    def values(self) -> list[Any]:
        return list(self.ids)


def columns(record: GraphRecord) -> Columns:
    """Returns what the page knows of a planned graph."""
    assert record.problem is not None, "only planned graphs have columns"
    assert record.plan is not None, "only planned graphs have columns"
    problem, plan = record.plan.to_edited(record.problem)
    known = plan.proof != UNKNOWN and not plan.stated
    modules = Table()
    return {
        "name": record.name,
        "lowering": record.lowering,
        "summary": summary(plan),
        "proof": show_proof(plan.proof, problem) if known else "",
        "peak": plan.peak,
        "bound": plan.claimed_bound,
        "stated": bool(plan.stated),
        "persistent": plan.persistent,
        "arena": plan.arena,
        "phases": [span.start for span in problem.spans],
        "held": _differences(plan.committed(problem)),
        "live": _differences(live_curve(problem, plan.order, plan.reuse)),
        "begin": _begin(record),
        "link": None if record.moved is None else [record.moved.write, record.moved.read],
        "edits": record.edit_lines(),
        "ops": _ops(problem, plan, modules) | _made_of(problem, plan, record.origins),
        "buffers": _buffers(problem, plan, modules, record.origins),
        "blocks": [[b.offset, b.size, b.lower, b.upper] for b in plan.blocks],
        "modules": modules.values,
    }


def summary(plan: Plan) -> str:
    """Returns a plan in one line."""
    return (
        f"{len(plan.order):,} ops, peak {show_size(plan.peak)}, lower bound "
        f"{show_size(plan.lower_bound)} ({plan.status}, gap {plan.gap:.2%}"
        f"{stated_note(plan.stated)}), fragmentation {plan.fragmentation:.2%}, {plan.method}"
    )


def _ops(problem: Problem, plan: Plan, modules: Table) -> Columns:
    ops = [problem.ops[i] for i in plan.order]
    time = {i: t for t, i in enumerate(plan.order)}
    folds = {life.folded_by for life in gradient_lives(problem, plan)}
    before = [
        sorted(t - time[p] for p in problem.predecessors[i]) for t, i in enumerate(plan.order)
    ]
    return {
        "name": [op.name for op in ops],
        "module": [modules(op.where) for op in ops],
        "scratch": [op.scratch for op in ops],
        "is": [_bits(op, folds) for op in ops],
        "cost": [float(f"{op.cost:.3g}") for op in ops],
        "before": _lists(before),
    }


def _bits(op: Op, folds: Collection[str | None]) -> int:
    """Returns what an op is, as the sum of its bits. `folds`: names of ops that fold a gradient."""
    transfer = op.lane in (Lane.COPY_OUT, Lane.COPY_IN)
    facts = {
        COPY: op.is_copy,
        MAY_RUN_AGAIN: op.may_be_copied,
        FOLD: op.name in folds,
        OUT: op.lane is Lane.COPY_OUT,
        BACK: op.lane is Lane.COPY_IN,
        STARTS: transfer and op.name.endswith(START),
        WAITS: transfer and op.name.endswith(WAIT),
    }
    return sum(bit for bit, holds in facts.items() if holds)


def _made_of(problem: Problem, plan: Plan, origins: Origins) -> Columns:
    """Returns for each op what it was made of, as indices of texts, the first of which is empty.

    A copy comes from where its op comes from.
    """
    lines, texts, kernels = by_name(origins.lines), Table(), Table()
    kernels("")
    texts("")
    names = [problem.ops[i].name for i in plan.order]
    roots = [name if name in lines else _root(name) for name in names]
    return {
        "calls": [kernels(", ".join(origins.calls.get(name, ()))) for name in names],
        "line": [texts(lines.get(root, "")) for root in roots],
        "kernels": kernels.values,
        "lines": texts.values,
    }


def _buffers(problem: Problem, plan: Plan, modules: Table, origins: Origins) -> Columns:
    """Returns the buffers: first those of the step, slot by slot, then the user's on the device."""
    every = [s for s in slots(problem, plan.order, plan.reuse) if s.size]
    outside = [s for s in every if s.buffers[0] not in plan.offsets]
    stacked = dict(zip((s.buffers[0] for s in outside), stack(outside), strict=True))
    lives = lifetimes(problem, plan.order)
    found: list[BufferId] = []
    slot: list[int] = []
    until: list[int] = []
    address: list[int] = []
    for s in every:
        head = s.buffers[0]
        for b, after in zip(s.buffers, (*s.buffers[1:], None), strict=True):
            found.append(b)
            slot.append(len(address))
            until.append(s.upper if after is None else lives[after][0])
        address.append(plan.offsets.get(head, stacked.get(head, 0)))
    for b, buffer in enumerate(problem.buffers):
        if buffer.home is Home.USER and buffer.tier is Tier.DEVICE and buffer.size:
            found.append(b)
    time = {i: t for t, i in enumerate(plan.order)}
    kinds, own = list(Kind), [problem.buffers[b] for b in found]
    forms, form_of = Table(), by_name(origins.tensors)
    forms("")
    offers, sentences = _offers(origins), Table()
    return {
        "name": [b.name for b in own],
        "kind": [kinds.index(b.kind) for b in own],
        "module": [modules(module_of(b)) for b in own],
        "size": [b.size for b in own],
        "form": [forms(form_of.get(b.name) or form_of.get(_root(b.name), "")) for b in own],
        "forms": forms.values,
        "offers": _lists([[sentences(s) for s in offers.get(b.name, ())] for b in own]),
        "sentences": sentences.values,
        "lower": _differences([lives[b][0] for b in found]),
        "life": [lives[b][1] - lives[b][0] for b in found],
        "until": [t - lives[b][0] for t, b in zip(until, found, strict=False)],
        "slot": _differences(slot),
        "address": address,
        "placed": [int(s.buffers[0] in plan.offsets) for s in every],
        "made": [_when(time, problem.maker[b]) for b in found],
        "uses": _lists([_differences(sorted(time[i] for i in problem.users[b])) for b in found]),
    }


def _offers(origins: Origins) -> dict[str, list[str]]:
    """Returns by buffer what options would do to it."""
    found: dict[str, list[str]] = defaultdict(list)
    for sentence, names in origins.offers.items():
        for name in names:
            found[name].append(sentence)
    return found


def _root(name: str) -> str:
    """Returns the name of what a copy is of: "h" for "h~1"."""
    return name.partition("~")[0]


def _when(time: dict[OpId, int], maker: OpId | None) -> int:
    """Returns when an op runs; -1 for no op, as the user's buffers have none that makes them."""
    return -1 if maker is None else time[maker]


def _begin(record: GraphRecord) -> list[int] | None:
    """Returns when each op begins and the last one ends, in ticks; None if nobody knows costs."""
    if record.problem is None or not any(op.cost for op in record.problem.ops):
        return None
    found = StepTimeline.of(record).timeline
    return _differences(round(s / TICK) for s in (*found.begin.tolist(), found.seconds))


def _differences(numbers: Iterable[int]) -> list[int]:
    return [b - a for a, b in pairwise((0, *numbers))]


def _lists(lists: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    return [len(one) for one in lists], [n for one in lists for n in one]
