"""Problems at random and from the golden texts, every order of a small one, and plain oracles.

The oracles say what a word means in the plainest way, whatever that costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from roam.core.bounds import must_live
from roam.core.edits import AnyEdit, Load, Offload, Recompute, apply
from roam.core.errors import EditError
from roam.core.lifetime import find_reuse, slots
from roam.core.plan import Arena, Block, Plan, measure
from roam.core.problem import Buffer, BufferId, Home, Kind, Op, OpId, Problem, Tier
from roam.core.text import parse_problem

T = TypeVar("T")

GOLDEN = Path(__file__).parent.parent / "golden"
GRAPHS = ("chain", "diamond", "in_place", "training_step", "wide")


def graph(name: str) -> Problem:
    """One of the tiny GRAPHS, whose numbers stand in its golden text."""
    return parse_problem((GOLDEN / f"{name}.txt").read_text())


@st.composite
def problems(draw: st.DrawFn, max_ops: int = 7) -> Problem:
    """Training steps of up to two phases, with everything that a Problem can say."""
    buffers = [_user_buffer(draw, n) for n in range(draw(st.integers(0, 2)))]
    ops: list[Op] = []
    last_forward = draw(st.integers(0, max_ops))
    for i in range(draw(st.integers(1, max_ops))):
        there = range(len(buffers))
        reads = draw(_some(there, 3))
        creates = tuple(range(len(buffers), len(buffers) + draw(st.integers(0, 2))))
        buffers += [_made_buffer(draw, b) for b in creates]
        ops.append(
            Op(
                name=f"op{i}",
                reads=reads,
                creates=creates,
                mutates=draw(_some(there, 1)),
                over=draw(_some(tuple(product(creates, reads)), 4)),
                scratch=draw(_one_of(0, 0, 7, 90)),
                phase=int(i > last_forward),
                cost=draw(_one_of(0.0, 1e-6, 0.25)),
                after=draw(_some(range(i), 1)),
                where=draw(_one_of("", "net.0")),
            )
        )
    return Problem("random", tuple(buffers), tuple(ops))


@st.composite
def dense_problems(draw: st.DrawFn, max_ops: int = 8) -> Problem:
    """One phase after what saved for it, in which much is read more than once and some is kept."""
    sizes = _one_of(0, 1, 5, 10, 10, 20, 25)
    buffers = [Buffer(f"saved{n}", draw(sizes)) for n in range(draw(st.integers(1, 4)))]
    ops = [Op("forward", creates=tuple(range(len(buffers))))]
    for i in range(draw(st.integers(4, max_ops))):
        there = range(len(buffers))
        reads = draw(_some(there[-4:] if draw(st.booleans()) else there, 3))
        creates = tuple(range(len(buffers), len(buffers) + draw(_one_of(0, 1, 1, 1, 2))))
        kept = draw(_one_of(False, False, False, True))
        home = Home.EXTERNAL if kept else Home.ARENA
        kind = Kind.GRADIENT if kept else Kind.TEMPORARY
        buffers += [Buffer(f"b{b}", draw(sizes), kind, home) for b in creates]
        scratch = draw(_one_of(0, 0, 0, 3, 15))
        ops.append(Op(f"op{i}", reads, creates, scratch=scratch, phase=1))
    return Problem("dense", tuple(buffers), tuple(ops))


@st.composite
def renamed_problems(draw: st.DrawFn) -> Problem:
    """The same with any text for a name."""
    problem = draw(problems(max_ops=4))
    n, m = len(problem.buffers), len(problem.ops)
    buffer_names = draw(st.lists(st.text(), unique=True, min_size=n, max_size=n))
    op_names = draw(st.lists(st.text(), unique=True, min_size=m, max_size=m))
    where = draw(st.text())
    return Problem(
        draw(st.text()),
        tuple(
            msgspec.structs.replace(b, name=name, where=where)
            for b, name in zip(problem.buffers, buffer_names, strict=True)
        ),
        tuple(
            msgspec.structs.replace(op, name=name, where=where)
            for op, name in zip(problem.ops, op_names, strict=True)
        ),
    )


@st.composite
def orders(draw: st.DrawFn, problem: Problem) -> tuple[OpId, ...]:
    """One valid order."""
    order: list[OpId] = []
    while len(order) < len(problem.ops):
        order.append(draw(_one_of(*ready(problem, order))))
    return tuple(order)


def all_orders(problem: Problem, start: tuple[OpId, ...] = ()) -> Iterator[tuple[OpId, ...]]:
    """Every valid order."""
    if len(start) == len(problem.ops):
        yield start
    for i in ready(problem, start):
        yield from all_orders(problem, (*start, i))


def ready(problem: Problem, start: Sequence[OpId]) -> list[OpId]:
    """The ops that can come next."""
    waiting = [i for i in range(len(problem.ops)) if i not in start]
    phase = min((problem.ops[i].phase for i in waiting), default=0)
    return [
        i
        for i in waiting
        if problem.ops[i].phase == phase and set(problem.predecessors[i]) <= set(start)
    ]


def alive(problem: Problem, order: Sequence[OpId], t: int) -> set[BufferId]:
    """The buffers that the step has made and someone still wants, while op `t` runs."""
    made = {b for i in order[: t + 1] for b in problem.ops[i].creates}
    wanted = {b for i in order[t:] for b in problem.ops[i].touches}
    return {b for b in made if b in wanted or problem.buffers[b].kept}


def stacked_plan(problem: Problem, order: tuple[OpId, ...], edits: Sequence[AnyEdit] = ()) -> Plan:
    """The plainest valid plan: one block a tier for the whole step, every slot at its own address.

    `order` is one of the edited problem.
    """
    edited = apply(problem, edits)
    reuse = find_reuse(edited, order)
    align = max((b.align for b in edited.buffers), default=1)
    arenas: dict[Tier, Arena] = {}
    for tier in Tier:
        offsets: dict[BufferId, int] = {}
        top = size = 0
        for slot in slots(edited, order, reuse, tier):
            if slot.home is Home.ARENA and slot.size:
                offsets |= dict.fromkeys(slot.buffers, top)
                size = top + slot.size
                top = -(-size // align) * align
        blocks = (Block(0, size, 0, len(order)),) if offsets else ()
        arenas[tier] = Arena(offsets, blocks)
    device = arenas.pop(Tier.DEVICE)
    peak, live_peak = measure(edited, order, reuse, device.offsets, device.blocks)
    return Plan(
        problem=problem.name,
        fingerprint=problem.fingerprint,
        order=order,
        offsets=device.offsets,
        reuse=reuse,
        blocks=device.blocks,
        peak=peak,
        live_peak=live_peak,
        lower_bound=must_live(edited),
        persistent=edited.persistent,
        method="stacked",
        seconds=0.5,
        edits=tuple(edits),
        elsewhere={tier: arena for tier, arena in arenas.items() if arena.offsets},
    )


@st.composite
def plans(
    draw: st.DrawFn, max_ops: int = 7, *, of: st.SearchStrategy[Problem] | None = None
) -> tuple[Problem, Plan]:
    problem = draw(problems(max_ops) if of is None else of)
    return problem, stacked_plan(problem, draw(orders(problem)))


@st.composite
def edited_plans(draw: st.DrawFn) -> tuple[Problem, Plan]:
    """A problem and a plan of it with copies and transfers, as many as it allows of some."""
    problem = draw(st.one_of(dense_problems(), problems()))
    edits: list[AnyEdit] = []
    for _ in range(draw(st.integers(1, 5))):
        edited = apply(problem, edits)
        edit = draw(_edit(edited))
        try:
            apply(problem, [*edits, *edit])
        except EditError:
            continue
        edits += edit
    return problem, stacked_plan(problem, draw(orders(apply(problem, edits))), edits)


@st.composite
def _edit(draw: st.DrawFn, problem: Problem) -> list[AnyEdit]:
    """One edit or none, which the problem need not allow."""
    made = {b for op in problem.ops if not op.mutates for b in op.creates}
    used = [b for b, users in enumerate(problem.users) if users]
    copyable = [b for b in used if b in made]
    if not used:
        return []
    copied = bool(copyable) and draw(st.booleans())
    b = draw(_one_of(*(copyable if copied else used)))
    users = tuple(problem.ops[i].name for i in problem.users[b])
    some = _some(users, len(users), at_least=1)
    anywhere = _one_of("", "", *(op.name for op in problem.ops))
    maker = problem.maker[b]
    if copied and maker is not None:
        return [Recompute(problem.ops[maker].name, draw(some), draw(anywhere))]
    readers = users if maker is None else draw(some)
    loads = (Load(readers, draw(anywhere), draw(anywhere)),)
    tier = draw(_one_of(Tier.HOST, Tier.FILE))
    name = problem.buffers[b].name
    return [Offload(name, tier, loads, draw(anywhere), draw(anywhere))]


def _user_buffer(draw: st.DrawFn, n: int) -> Buffer:
    kind = draw(_one_of(Kind.PARAMETER, Kind.INPUT, Kind.STATE))
    return Buffer(f"b{n}", draw(_one_of(0, 64, 1000)), kind, Home.USER)


def _made_buffer(draw: st.DrawFn, n: int) -> Buffer:
    kinds = _one_of(Kind.TEMPORARY, Kind.TEMPORARY, Kind.SAVED, Kind.GRADIENT, Kind.OUTPUT)
    return Buffer(
        name=f"b{n}",
        size=draw(_one_of(64, 64, 100, 1, 0)),
        kind=draw(kinds),
        home=draw(_one_of(Home.ARENA, Home.ARENA, Home.EXTERNAL)),
        align=draw(_one_of(64, 64, 16, 1)),
        where=draw(_one_of("", "net.1")),
    )


# hypothesis takes longer to make and to check these strategies than to draw from them


@lru_cache(maxsize=None, typed=True)  # 0 is not False
def _one_of(*values: T) -> st.SearchStrategy[T]:
    return st.sampled_from(values)


@cache
def _some(of: Sequence[T], at_most: int, at_least: int = 0) -> st.SearchStrategy[tuple[T, ...]]:
    """Different ones of `of`, in any order; none if there are none."""
    if not of:
        return st.just(())
    one = st.sampled_from(of)
    return st.lists(one, unique=True, min_size=at_least, max_size=at_most).map(tuple)
