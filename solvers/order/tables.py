"""Holds one phase of a Problem as arrays, for searches that measure millions of orders.

Ops are numbered by their place in the phase (program order). Buffers are numbered anew: only
buffers whose last user is an op of the phase are listed. Bytes are transient bytes. A list of lists
is stored as two arrays: its rows, one after another, and the index at which each row starts:

    users of buffer b = users[users_at[b] : users_at[b + 1]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roam.core.lifetime import can_take
from roam.core.problem import BufferId, Home, OpId, Problem
from roam.solvers.jit import compiled

Ints = NDArray[np.int64]
EARLIER = -1  # value of `maker` for a buffer that an earlier phase made
# limit on the pairs (result, dying buffer) tried for one op: an integer holds one bit for each
MOST_PAIRS = 62


class Tables(NamedTuple):
    """The ops and buffers of one phase.

    Attributes:
        start: bytes alive when the phase begins.
        makes: by op, the bytes of all buffers that it creates.
        unused: by op, the bytes of those results that no op uses and the user does not keep. They
            die just after the op, and are not among the buffers listed.
        stays: by op, the bytes of those results that are alive until the phase ends. They are not
            among the buffers listed.
        scratch: by op, the bytes that it allocates for itself while it runs.
        size: by buffer, its size in bytes.
        maker: by buffer, the op that creates it; EARLIER if that op belongs to an earlier phase.
        users: by buffer, the ops of the phase that read or change it.
        uses: by op, the listed buffers that it reads or changes.
        made: by op, the listed buffers that it creates.
        over_made, over_dying: by op, pairs of a result (`over_made`, numbered as in the Problem)
            and a dying buffer that the result may be written over (`over_dying`).
        before: by op, the ops of the phase that it waits for.
        after: by op, the ops of the phase that wait for it.
        users_at, uses_at, made_at, over_at, before_at, after_at: the index at which the row of each
            buffer or op starts in the array of that name (`over_made` and `over_dying` for over).
    """

    start: int
    makes: Ints
    unused: Ints
    stays: Ints
    scratch: Ints
    size: Ints
    maker: Ints
    users_at: Ints
    users: Ints
    uses_at: Ints
    uses: Ints
    made_at: Ints
    made: Ints
    over_at: Ints
    over_made: Ints
    over_dying: Ints
    before_at: Ints
    before: Ints
    after_at: Ints
    after: Ints


def tables(problem: Problem, phase: int) -> Tables:
    """Reads the ops and buffers of one phase into arrays."""
    ops = problem.phases[phase]
    place = {i: k for k, i in enumerate(ops)}
    start = 0
    number: dict[BufferId, int] = {}
    users: list[list[int]] = []
    for b, buffer in enumerate(problem.buffers):
        made_by = problem.maker[b]
        if made_by is None or buffer.home is Home.USER or problem.ops[made_by].phase > phase:
            continue
        outlives = buffer.kept or any(problem.ops[u].phase > phase for u in problem.users[b])
        inside = [place[u] for u in problem.users[b] if u in place]
        if made_by not in place and (outlives or inside):
            start += buffer.transient
        if inside and not outlives:
            number[b] = len(users)
            users.append(inside)
    size = np.array([problem.buffers[b].transient for b in number], np.int64)
    maker = np.array([_maker(problem, b, place) for b in number], np.int64)
    makes = np.array([_made(problem, i) for i in ops], np.int64)
    unused = np.array([_unused(problem, i) for i in ops], np.int64)
    uses: list[list[int]] = [[] for _ in ops]
    made: list[list[int]] = [[] for _ in ops]
    stays = makes - unused
    for b, inside in enumerate(users):
        for k in inside:
            uses[k].append(b)
        if maker[b] != EARLIER:
            made[maker[b]].append(b)
            stays[maker[b]] -= size[b]
    pairs = [
        [(n, o) for n, o in problem.ops[i].over if can_take(problem, n, o) and o in number]
        for i in ops
    ]
    over_at, over_made = rows([[made for made, _ in row] for row in pairs])
    _, over_dying = rows([[number[dying] for _, dying in row] for row in pairs])
    return Tables(
        start,
        makes,
        unused,
        stays,
        np.array([problem.ops[i].scratch for i in ops], np.int64),
        size,
        maker,
        *rows(users),
        *rows(uses),
        *rows(made),
        over_at,
        over_made,
        over_dying,
        *rows([[place[p] for p in problem.predecessors[i] if p in place] for i in ops]),
        *rows([[place[s] for s in problem.successors[i] if s in place] for i in ops]),
    )


def _maker(problem: Problem, b: BufferId, place: Mapping[OpId, int]) -> int:
    made_by = problem.maker[b]
    return EARLIER if made_by is None else place.get(made_by, EARLIER)


def _made(problem: Problem, i: OpId) -> int:
    return sum(problem.buffers[b].transient for b in problem.ops[i].creates)


def _unused(problem: Problem, i: OpId) -> int:
    made = problem.ops[i].creates
    idle = [b for b in made if not problem.users[b] and not problem.buffers[b].kept]
    return sum(problem.buffers[b].transient for b in idle)


def rows(lists: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Stores a list of rows as two arrays: the index at which each row starts, and all rows joined.

    The first array ends with the length of the second one.
    """
    at = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return at, np.array([x for row in lists for x in row], np.int64)


@compiled
def measure(
    phase: Tables, order: Ints, time: Ints, first: int, last: int, during: Ints, after: Ints
) -> None:
    """Computes the live bytes during and just after each op that runs at the times [first, last).

    Args:
        phase: the ops and buffers.
        order: by time, the op that runs then.
        time: by op, the time at which it runs; the inverse of `order`.
        first: the first time to measure.
        last: the time after the last one to measure.
        during: by time, the bytes alive while its op runs; filled in.
        after: by time, the bytes alive just after its op; filled in. If first > 0,
            `after[first - 1]` must be correct already.
    """
    live = phase.start if first == 0 else after[first - 1]
    for t in range(first, last):
        k = order[t]
        freed = phase.unused[k]
        for j in range(phase.uses_at[k], phase.uses_at[k + 1]):
            if dies(phase, phase.uses[j], time, t):
                freed += phase.size[phase.uses[j]]
        during[t] = live + phase.makes[k] + phase.scratch[k] - written_over(phase, k, time, t)
        live += phase.makes[k] - freed
        after[t] = live


@compiled
def measured(phase: Tables, order: Ints) -> tuple[Ints, Ints, Ints]:
    """Measures an order of the whole phase. `order` has, by time, the op that runs then.

    Returns:
        time: by op, the time at which it runs.
        during: by time, the bytes alive while its op runs.
        after: by time, the bytes alive just after its op.
    """
    n = len(order)
    time, during, after = np.empty(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    for t in range(n):
        time[order[t]] = t
    measure(phase, order, time, 0, n, during, after)
    return time, during, after


@compiled
def dies(phase: Tables, buffer: int, time: Ints, t: int) -> bool:
    """Returns whether no op that uses a buffer runs after time t.

    `time` has, by op, the time at which it runs.
    """
    for j in range(phase.users_at[buffer], phase.users_at[buffer + 1]):
        if time[phase.users[j]] > t:
            return False
    return True


@compiled
def written_over(phase: Tables, k: int, time: Ints, t: int) -> int:
    """Returns the bytes that op k, at time t, saves by writing results over buffers that die at t.

    Only the op's first MOST_PAIRS pairs of a result and a buffer count. `time` has, by op, the time
    at which it runs.
    """
    dying = 0
    first = phase.over_at[k]
    for j in range(first, min(phase.over_at[k + 1], first + MOST_PAIRS)):
        if dies(phase, phase.over_dying[j], time, t):
            dying |= 1 << (j - first)
    return pairs_save(phase, k, dying)


@compiled
def pairs_save(phase: Tables, k: int, dying: int) -> int:
    """Returns the bytes of those results of op k that are written over dying buffers.

    The op's pairs are those of `phase.over_made` and `phase.over_dying`: a result, and a buffer
    that it may be written over. Bit n of `dying` is set if the buffer of pair n dies at the op.
    Takes the pairs in the order in which they are listed. Uses each result and each buffer at most
    once, as `core.lifetime.find_reuse` does.
    """
    saved = 0
    taken = 0  # bit n is set if the result of pair n is written over the buffer of pair n
    first = phase.over_at[k]
    for j in range(first, min(phase.over_at[k + 1], first + MOST_PAIRS)):
        free = dying >> (j - first) & 1 == 1
        for i in range(first, j):
            same = (
                phase.over_made[i] == phase.over_made[j]
                or phase.over_dying[i] == phase.over_dying[j]
            )
            if same and taken >> (i - first) & 1:
                free = False
        if free:
            taken |= 1 << (j - first)
            saved += phase.size[phase.over_dying[j]]
    return saved
