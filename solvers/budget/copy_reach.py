"""Finds the copies that a step may have within reach, and the places at which each may run.

    forward      a ──── b ──── c            b reads a, c reads b; from a to c at most `reach` ops
    segment k    a~ ─── b~ ─── c~ ─── r     a chain: the op r reads c~, c~ reads b~, b~ reads a~

A chain of copies ends with a copy whose result an op of the segment reads. Such a copy is *direct*.
The first and the last op of a chain are at most `reach` ops apart in the forward. So the CP-SAT
program (`retention`) stays small: no chain starts at the other end of the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from roam.core.problem import BufferId, OpId
from roam.solvers.budget.copies import Choice, Copy, Step


@dataclass
class Reach:
    """Finds the copies that a step may have, and the places at which each may run.

    A chain of copies, in which each copy reads the one before it, is within reach if its first and
    its last op are at most `ops` ops apart in the forward.

    Attributes:
        step: the step.
        ops: limit on the distance from the first to the last op of a chain, in ops of the forward.
        among: the only copies that may be chosen; None for all within reach.
        readers: (droppable buffer, segment) -> the ops of the segment that read the buffer. A
            buffer is droppable if copies can make it again (`Step.droppable`).
        earliest, latest: by copy within reach, the first and the last op of its segment just before
            which the copy may run. The two may differ if the first reader of its results is another
            copy: the choice decides which of these readers run. No copy runs later than just
            before its op in `Step.latest`, which changes a buffer that the copy reads.
        consumers: for each droppable buffer, the ops of the forward whose copies read it.
        direct: the copies whose results are read by an op of their segment, and not only by copies.
    """

    step: Step
    ops: int
    among: Choice | None = None
    readers: Mapping[tuple[BufferId, int], list[OpId]] = field(init=False)
    earliest: Mapping[Copy, OpId] = field(init=False)
    latest: dict[Copy, OpId] = field(init=False, default_factory=dict)
    consumers: Mapping[BufferId, list[OpId]] = field(init=False)
    direct: set[Copy] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        step, problem = self.step, self.step.problem
        readers: dict[tuple[BufferId, int], list[OpId]] = defaultdict(list)
        consumers: dict[BufferId, list[OpId]] = defaultdict(list)
        for b in sorted(step.droppable):
            for r in problem.users[b]:
                if r >= step.boundary:
                    readers[b, step.segment(r)].append(r)
        for i, form in step.forms.items():
            for b in form.reads:
                if b in step.droppable:
                    consumers[b].append(i)
        self.readers, self.consumers = readers, consumers
        self.earliest = self._copies()

    def _copies(self) -> dict[Copy, OpId]:
        step = self.step
        found: dict[Copy, OpId] = {}
        origin: dict[Copy, OpId] = {}
        for i in sorted(step.forms, reverse=True):
            own = [b for b in step.forms[i].creates if b in step.droppable]
            for k in range(len(step.starts)):
                if step.starts[k] > step.latest[i]:
                    continue
                if self.among is not None and (i, k) not in self.among:
                    continue
                at = [r for b in own for r in self.readers.get((b, k), ())]
                origins = [i] if at else []
                direct = min(at, default=None)
                last = []
                for b in own:
                    for j in self.consumers.get(b, ()):
                        # the copy (j, k), if chosen, reads that of i, even in too long a chain
                        if (j, k) in found:
                            at.append(found[j, k])
                            last.append(self.latest[j, k])
                            if origin[j, k] - i <= self.ops:
                                origins.append(origin[j, k])
                if origins and min(at) <= step.latest[i]:
                    found[i, k], origin[i, k] = min(at), min(origins)
                    until = max(last) if direct is None else direct
                    self.latest[i, k] = min(until, step.latest[i])
                    self.direct |= set() if direct is None else {(i, k)}
        return found

    def readers_again(self, i: OpId, k: int) -> list[OpId]:
        """Returns the ops whose copies in segment k read op i's copy there, if both are chosen.

        Leaves out ops whose copy in segment k is not within reach.
        """
        own = [b for b in self.step.forms[i].creates if b in self.step.droppable]
        readers = {c for b in own for c in self.consumers.get(b, ())}
        return [c for c in sorted(readers) if (c, k) in self.earliest]
