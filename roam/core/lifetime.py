"""Who is alive when: lifetimes, in-place reuse, and the live curve of an order.

Time is the index of the op in the order and lifetimes are half open. A buffer that is written
over a dying one shares its slot:

    time        0   1   2   3   4
    a           [-------)                 op 2 reads a for the last time and writes b over it
    b                   [---------)
    slot        [-----------------)       one rectangle, one address

At the op where the one becomes the other, only one of the two is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roam.core.problem import BufferId, Home, OpId, Problem, Tier

Reuse = Mapping[BufferId, BufferId]  # a buffer -> the dying one whose place it takes


@dataclass(frozen=True)
class Slot:
    """A buffer, or a chain of buffers written over one another: one rectangle of memory.

    Alive at times lower <= t < upper. `home` says where it may lie: a chain that ends in
    something the user keeps is external altogether.
    """

    buffers: tuple[BufferId, ...]
    lower: int
    upper: int
    size: int
    align: int
    home: Home


def lifetimes(problem: Problem, order: Sequence[OpId]) -> list[tuple[int, int]]:
    """The half-open lifetime of every buffer. The user's own live throughout."""
    end = len(order)
    time = {op: t for t, op in enumerate(order)}
    lives: list[tuple[int, int]] = []
    for b, buffer in enumerate(problem.buffers):
        made_by = problem.maker[b]
        if made_by is None:
            lives.append((0, end))
            continue
        lower = time[made_by]
        last = max((time[u] for u in problem.users[b]), default=lower)
        lives.append((lower, end if buffer.kept else last + 1))
    return lives


def find_reuse(problem: Problem, order: Sequence[OpId]) -> dict[BufferId, BufferId]:
    """Every in-place reuse that the order allows, each dying buffer given away once.

    Taking all of them is right: a reuse lowers the live bytes at its op and nowhere raises them.
    """
    lives = lifetimes(problem, order)
    reuse: dict[BufferId, BufferId] = {}
    for t, i in enumerate(order):
        taken: set[BufferId] = set()
        for made, dying in problem.ops[i].over:
            if made in reuse or dying in taken or not can_take(problem, made, dying):
                continue
            if lives[dying][1] == t + 1:
                reuse[made] = dying
                taken.add(dying)
    return reuse


def can_take(problem: Problem, made: BufferId, dying: BufferId) -> bool:
    """Whether `made` may ever be written over `dying`, whatever the order."""
    a, b = problem.buffers[made], problem.buffers[dying]
    fits = a.size == b.size and a.align <= b.align and a.tier is b.tier
    return fits and b.home is not Home.USER and not b.kept


def slots(
    problem: Problem, order: Sequence[OpId], reuse: Reuse, tier: Tier = Tier.DEVICE
) -> list[Slot]:
    """The rectangles of memory that the step needs of a tier, in the order in which they begin."""
    lives = lifetimes(problem, order)
    chain: dict[BufferId, list[BufferId]] = {}
    for i in order:
        for b in (b for b in problem.ops[i].creates if problem.buffers[b].tier is tier):
            links = chain[reuse[b]] if b in reuse else []
            links.append(b)
            chain[b] = links
    heads = {links[0]: links for links in chain.values()}
    return [_slot(problem, links, lives) for links in heads.values()]


def _slot(problem: Problem, links: list[BufferId], lives: list[tuple[int, int]]) -> Slot:
    first, last = problem.buffers[links[0]], problem.buffers[links[-1]]
    homes = {problem.buffers[b].home for b in links}
    arena = homes == {Home.ARENA} and not last.kept
    return Slot(
        buffers=tuple(links),
        lower=lives[links[0]][0],
        upper=lives[links[-1]][1],
        size=first.size,
        align=first.align,
        home=Home.ARENA if arena else Home.EXTERNAL,
    )


def live_curve(problem: Problem, order: Sequence[OpId], reuse: Reuse) -> list[int]:
    """Transient bytes of the device alive while each op of the order runs, with its scratch."""
    change = [0] * (len(order) + 1)
    for slot in slots(problem, order, reuse):
        change[slot.lower] += slot.size
        change[slot.upper] -= slot.size
    curve: list[int] = []
    live = 0
    for t, i in enumerate(order):
        live += change[t]
        curve.append(live + problem.ops[i].scratch)
    return curve


def live_peak(problem: Problem, order: Sequence[OpId]) -> int:
    """Transient bytes of the device at the worst moment of an order, all in-place reuse taken."""
    return max(live_curve(problem, order, find_reuse(problem, order)), default=0)
