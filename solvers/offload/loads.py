"""Finds the loads of a problem: persistent buffers that are in a tier until one op uses them.

Optimizer states are an example. Such a buffer is loaded before the op that uses it, and stored
again after this op if the op changes it:

    full problem   load.start ── load.wait ── fold ── store.start ── store.wait
    bare problem                              fold, with the loaded bytes as scratch space

Searches for an order work on the bare problem, because the transfers take the fewest bytes right
beside their op. `prefetch.py` moves them away from the op later, if that raises no peak.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from roam.core.problem import BufferId, Home, Lane, Op, OpId, Problem, Tier
from roam.core.proof import Cut, MustLive, Proof


@dataclass(frozen=True)
class Load:
    """One buffer that an op loads from a tier, and stores there again if it changes it.

    Attributes:
        buffer: the loaded buffer, on the device.
        user: the only op that uses the buffer.
        loading: two ops: the start of the transfer to the device, and the wait for this transfer.
        storing: two ops: the start of the transfer back, and the wait for this transfer; empty if
            `user` does not change the buffer.
    """

    buffer: BufferId
    user: OpId
    loading: tuple[OpId, OpId]
    storing: tuple[()] | tuple[OpId, OpId]


@dataclass(frozen=True)
class Bare:
    """A problem without the transfers of its loads; the full problem is the one with them.

    Attributes:
        problem: the bare problem. An op that uses a load has the loaded bytes as scratch space.
        ops: by op of the bare problem, its id in the full problem.
        loads: by op of the full problem that uses loads, these loads.
    """

    problem: Problem
    ops: tuple[OpId, ...]
    loads: Mapping[OpId, tuple[Load, ...]]

    def with_loads(self, order: Sequence[OpId]) -> list[OpId]:
        """Turns an order of the bare problem into an order of the full one: adds the transfers.

        Each transfer is right beside the op that uses its buffer.
        """
        found: list[OpId] = []
        for i in (self.ops[k] for k in order):
            loads = self.loads.get(i, ())
            found += [load.loading[0] for load in loads] + [load.loading[1] for load in loads]
            found.append(i)
            found += [load.storing[0] for load in loads if load.storing]
            found += [load.storing[1] for load in loads if load.storing]
        return found

    def without_loads(self, order: Sequence[OpId]) -> list[OpId]:
        """Turns an order of the full problem into one of the bare problem: drops the transfers."""
        number = {i: k for k, i in enumerate(self.ops)}
        return [number[i] for i in order if i in number]

    def proof(self, proof: Proof) -> Proof:
        """Turns a proof of a lower bound for the bare problem into one for the full problem.

        Changes the op id in the proof, if it has one. The bound holds for the full problem too: at
        least as many bytes are alive at each op in the full problem as in the bare one.
        """
        match proof:
            case MustLive(op):
                return MustLive(self.ops[op])
            case Cut(op):
                return Cut(self.ops[op])
        return proof


def without_loads(problem: Problem) -> Bare | None:
    """Returns the problem without the transfers of its loads; None if it has no loads."""
    loads = find_loads(problem)
    if not loads:
        return None
    gone_ops = {i for load in loads for i in (*load.loading, *load.storing)}
    gone = {load.buffer for load in loads}
    gone |= {b for i in gone_ops for b in problem.ops[i].touches if _is_stored(problem, b)}
    kept = [i for i in range(len(problem.ops)) if i not in gone_ops]
    number = {b: k for k, b in enumerate(b for b in range(len(problem.buffers)) if b not in gone)}
    place = {i: k for k, i in enumerate(kept)}
    of_user: dict[OpId, list[Load]] = defaultdict(list)
    for load in loads:
        of_user[load.user].append(load)

    def bare(i: OpId) -> Op:
        op = problem.ops[i]
        loaded = sum(problem.buffers[load.buffer].size for load in of_user.get(i, ()))
        return replace(
            op,
            reads=tuple(number[b] for b in op.reads if b in number),
            creates=tuple(number[b] for b in op.creates),
            mutates=tuple(number[b] for b in op.mutates if b in number),
            over=tuple((number[made], number[dying]) for made, dying in op.over),
            after=tuple(place[a] for a in op.after if a in place),
            scratch=op.scratch + loaded,
        )

    buffers = tuple(problem.buffers[b] for b in number)
    found = Problem(problem.name, buffers, tuple(map(bare, kept)))
    return Bare(found, tuple(kept), {i: tuple(of) for i, of in of_user.items()})


def find_loads(problem: Problem) -> list[Load]:
    """Returns the loads of a problem.

    Returns no loads at all if a loaded buffer is not used by exactly one op that computes, if its
    transfer to the device does not have exactly one wait, or if the buffer is stored by other ops
    than one start and one wait.
    """
    found: list[Load] = []
    for b, maker in enumerate(problem.maker):
        if maker is None or problem.ops[maker].lane is not Lane.COPY_IN:
            continue
        if not any(_is_stored(problem, s) for s in problem.ops[maker].reads):
            continue
        ops = {lane: [i for i in problem.users[b] if problem.ops[i].lane is lane] for lane in Lane}
        waits, users, back = ops[Lane.COPY_IN], ops[Lane.COMPUTE], ops[Lane.COPY_OUT]
        if len(waits) != 1 or len(users) != 1 or len(back) not in (0, 2):
            return []
        found.append(Load(b, users[0], (maker, waits[0]), (back[0], back[1]) if back else ()))
    return found


def _is_stored(problem: Problem, b: BufferId) -> bool:
    buffer = problem.buffers[b]
    return buffer.home is Home.USER and buffer.tier is not Tier.DEVICE
