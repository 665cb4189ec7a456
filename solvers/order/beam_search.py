"""Decides whether a phase has an order within a limit on live bytes: a beam search of sets of ops.

    level     0        1         2         3      A set holds the ops that have run. Level n holds
                  ┌── {a} ──┬── {a,b} ── ...      the sets of n ops that can be reached within the
             {} ──┤         │                     limit. Several orders may reach a set; the level
                  └── {b} ──┘   {b,d} ── ...      holds it once.

If a level has more sets than the width of the beam, only those with the fewest live bytes are
extended (a beam search). As long as no level is wider than the beam, the search is exact: if it
comes to a level without sets before all ops have run, no order keeps within the limit.

Two rules make the levels small. Both follow from `valleys.py`. A valley of a set S is a set that
contains S and leaves no more bytes alive than S and than every set between the two. `valleys.py`
proves that a search which has reached a valley of the set where it began may forget all other sets.

    light op    An op is light after a set S if it does not raise the live bytes. S with a light op
                is a valley of S, as no set lies between the two. So if a light op fits within the
                limit, it is the only op by which S is extended (one of them, if there are several).
    low set     Let the search begin at a set R. Let T be a set after which no op that fits is
                light, with no more live bytes than any set reached since R. Then T is a valley of
                R, and the search begins again at T. (Proof: assume that some set between R and T
                has fewer live bytes than T, and let T' be the largest of those with the fewest. T'
                can be reached within the limit, as live bytes are submodular: by the ops of T', in
                the order in which the search came to T. The search does reach T': if a light op
                extends a set within T', then T' and T contain the op, since otherwise it would be
                light after T' or T too. T' is on an earlier level than T, so T has no more live
                bytes than T', which contradicts the assumption.)

Like `valleys`, the search runs from the start of the phase or, mirrored, from its end. Like
`valleys`, it counts live bytes as if every op wrote over all dying buffers that it may ever write
over, so the caller has to measure the order found. The search is compiled and tries millions of ops
a second, which pays in wide, irregular graphs. It does not use the rule of `segment_search.py` that
an op which only adds bytes can wait.
"""

from __future__ import annotations

import numpy as np

from roam.core.problem import Problem
from roam.solvers.jit import compiled
from roam.solvers.order.levels import (
    NEVER,
    Level,
    Net,
    extend,
    first_level,
    grown,
    net,
    raises,
    run,
    takes,
)
from roam.solvers.order.op_sets import has
from roam.solvers.order.progress import Phase
from roam.solvers.order.tables import Ints
from roam.solvers.work import Units

# results of `search`: an order fits; no set is left to extend, which proves that no order fits;
# ended without knowing which
FOUND, NONE, GAVE_UP = 0, 1, 2
A_LEVEL = 20  # steps counted for a level, besides the ops tried: 2 to 5 microseconds, measured


def a_step(ops: int) -> Units:
    """Returns the units of work to try one op as the next one after a set of ops.

    `ops` is the number of ops of the phase. The time was measured: 90 to 150 nanoseconds in phases
    of up to 500 ops, 230 to 500 in one of 2,000.
    """
    return 100 + ops // 7


def both_ends(problem: Problem, phase: int) -> list[Net]:
    """Returns a phase as arrays, as seen from its end and from its start, for `search`.

    Also calls `search` once, which compiles it if this process has not done so yet.
    """
    ends = [net(Phase(problem, phase, mirrored=m)) for m in (True, False)]
    search(ends[0], 0, 1, 0)
    return ends


@compiled
def search(phase: Net, most: int, width: int, steps: int) -> tuple[int, Ints, int, int]:
    """Searches for an order within `most` bytes, from one end of the phase.

    Level n of the search holds the sets of n ops that have run. A step tries one op after one set,
    and a level takes A_LEVEL further steps. Counts live bytes as if every op wrote over all dying
    buffers that it may ever write over. So the measured peak of the order found may be above
    `most`.

    Args:
        phase: the phase, as seen from the end at which the search begins.
        most: the limit on live bytes.
        width: limit on the sets of one level that are extended.
        steps: limit on the steps; checked after each level, so the last level may exceed it.

    Returns:
        how: FOUND, NONE or GAVE_UP. NONE proves that no order keeps within the limit: no set was
            left to extend, and none had been left out.
        order: the order found, beginning at the end of the phase where the search begins; empty
            unless FOUND.
        needed: the fewest bytes that would have been alive while one of the ops that did not fit
            within the limit ran; NEVER if all fitted. A lower bound on the peak if `how` is NONE.
        done: the number of steps.
    """
    n = len(phase.own)
    now = first_level(phase)
    # by level, the index in `parents` and `ops` of the first set of the next level
    trail_at = np.zeros(n + 1, np.int64)
    parents, ops = np.empty(1024, np.int32), np.empty(1024, np.int32)
    floor = phase.start
    exact = True
    needed, done = NEVER, 0
    for level in range(n):
        parent, op, live, hashes, refused, tried = extend(phase, now, most)
        needed, done = min(needed, refused), done + tried + A_LEVEL
        if len(parent) == 0 or done > steps:
            how = NONE if exact and len(parent) == 0 else GAVE_UP
            return how, np.empty(0, np.int64), needed, done
        if len(parent) > width:
            exact = False
            chosen = lowest(live, width)
            parent, op, live, hashes = parent[chosen], op[chosen], live[chosen], hashes[chosen]
        following = run(phase, now, parent, op, live, hashes)
        floor = min(floor, live.min())
        low = low_set(phase, following, floor, most)
        if low >= 0:
            parent, op = parent[low : low + 1], op[low : low + 1]
            following = Level(
                following.ran[low : low + 1],
                following.ready[low : low + 1],
                following.live[low : low + 1],
                following.hash[low : low + 1],
            )
        start, end = trail_at[level], trail_at[level] + len(parent)
        if end > len(parents):
            parents, ops = grown(parents, 2 * end), grown(ops, 2 * end)
        for i in range(len(parent)):
            parents[start + i], ops[start + i] = parent[i], op[i]
        trail_at[level + 1] = end
        now = following
    order = np.empty(n, np.int64)
    at = 0
    for level in range(n - 1, -1, -1):
        order[level] = ops[trail_at[level] + at]
        at = parents[trail_at[level] + at]
    return FOUND, order, needed, done


@compiled
def lowest(live: Ints, width: int) -> Ints:
    """Returns the indices of the `width` lowest items of `live`; of equal items, the first ones."""
    low, high = live.min(), live.max()
    # finds the least number of bytes that at least `width` items of `live` do not exceed
    while low < high:
        middle = low + (high - low) // 2
        count = 0
        for i in range(len(live)):
            count += live[i] <= middle
        if count >= width:
            high = middle
        else:
            low = middle + 1
    chosen = np.empty(width, np.int64)
    count = 0
    for i in range(len(live)):
        if live[i] < low:
            chosen[count] = i
            count += 1
    for i in range(len(live)):
        if live[i] == low and count < width:
            chosen[count] = i
            count += 1
    return chosen


@compiled
def low_set(phase: Net, level: Level, floor: int, most: int) -> int:
    """Returns the index in `level` of a set with at most `floor` live bytes and without a light op.

    An op is light after a set if it does not raise the live bytes and fits within `most` bytes.
    Returns -1 if the level has no such set.
    """
    for at in range(len(level.live)):
        if level.live[at] > floor:
            continue
        light = False
        for k in range(len(phase.own)):
            if has(level.ready[at], k):
                more = raises(phase, level.ran[at], k)
                if more <= 0 and takes(phase, level.live[at], more, k) <= most:
                    light = True
        if not light:
            return at
    return -1
