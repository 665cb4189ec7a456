"""Builds a Problem op by op, whatever it is read from.

begin_phase(1, [g1, g2])          tangents   creates g1, g2; every op of the phase waits for it
add_buffer("x", 40)               x
add_op("mm", creates=[x])         mm         creates x
add_fold("w", [x], [("m", 40)])   fold_w     reads x, changes w.m; x is a released gradient
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from roam.core.problem import Buffer, BufferId, Home, Kind, Lane, Op, OpId, Problem, Tier

Pairs = Sequence[tuple[BufferId, BufferId]]
State = Iterable[tuple[str, int]]  # of an optimizer: name and bytes of each tensor


FOLD = "fold_"  # what the name of a fold begins with; the name of the parameter follows


class ProblemBuilder:
    """Collects buffers and ops under names of their own.

    Args:
        begun: a Problem to go on from: its buffers and ops come first.
        align: what the address of a buffer must be a multiple of, in bytes, unless it says so.
    """

    def __init__(self, begun: Problem | None = None, align: int = 64) -> None:
        self.buffers: list[Buffer] = [] if begun is None else list(begun.buffers)
        self.ops: list[Op] = [] if begun is None else list(begun.ops)
        self.align = align
        self._phase = 0
        self._folded_in_blocks: dict[str, list[BufferId]] = {}  # by parameter, its states
        self._waits_for: tuple[OpId, ...] = ()  # what every op of the phase waits for
        self._buffer_names = {b.name for b in self.buffers}
        self._op_names = {o.name for o in self.ops}

    def begin_phase(
        self,
        phase: int,
        given: Sequence[BufferId] | None = None,
        name: str = "tangents",
        reads: Sequence[BufferId] = (),
    ) -> None:
        """Starts a phase.

        Autograd makes the gradients of the outputs before a backward begins, zeros included for an
        output that nobody differentiated.

        Args:
            phase: the number of the phase.
            given: the buffers that exist when the phase begins: a first op of its own creates them.
                None for no such op.
            name: of the first op.
            reads: buffers of earlier phases that this op reads, because no later op does: they die
                with it. Needs `given`.
        """
        self._phase, self._waits_for = phase, ()
        if given is not None:
            self._waits_for = (self.add_op(name, reads=reads, creates=given),)

    def add_buffer(
        self,
        name: str,
        size: int,
        kind: Kind = Kind.TEMPORARY,
        home: Home = Home.EXTERNAL,
        *,
        align: int | None = None,
        where: str = "",
        tier: Tier = Tier.DEVICE,
    ) -> BufferId:
        align = self.align if align is None else align
        self.buffers.append(
            Buffer(_unique(name, self._buffer_names), size, kind, home, align, where, tier)
        )
        return len(self.buffers) - 1

    def add_op(
        self,
        name: str,
        *,
        reads: Sequence[BufferId] = (),
        creates: Sequence[BufferId] = (),
        mutates: Sequence[BufferId] = (),
        over: Pairs = (),
        scratch: int = 0,
        cost: float = 0.0,
        after: Iterable[OpId] = (),
        where: str = "",
        once: bool = False,
        lane: Lane = Lane.COMPUTE,
    ) -> OpId:
        """Adds an op to the phase.

        Args:
            over: pairs of a result and a buffer that it may be written over.
            once: the op has effects or draws random numbers: no edit may copy it.
        """
        self.ops.append(
            Op(
                name=_unique(name, self._op_names),
                reads=tuple(reads),
                creates=tuple(creates),
                mutates=tuple(mutates),
                over=tuple(over),
                scratch=scratch,
                phase=self._phase,
                cost=cost,
                after=tuple(dict.fromkeys((*self._waits_for, *after))),
                where=where,
                once=once,
                lane=lane,
            )
        )
        return len(self.ops) - 1

    def add_fold(
        self,
        parameter: str,
        reads: Sequence[BufferId],
        state: State,
        *,
        mutates: Sequence[BufferId] = (),
        scratch: int = 0,
        cost: float = 0.0,
        after: Iterable[OpId] = (),
        where: str = "",
        block: str = "",
    ) -> OpId:
        """Adds the fold of a gradient, which dies there.

        Args:
            parameter: the name of the parameter that the gradient is of.
            reads: the gradient among them.
            state: the tensors of the optimizer that the fold changes, there before the step.
            mutates: what else it changes: the parameter, if it updates it, and loaded state.
            block: ends the name of the op if only a block of the parameter's rows is folded, such
                as "#fold3.1"; empty if all are. All blocks of a parameter change the same state.
        """
        for b in reads:
            if self.buffers[b].kind is Kind.TEMPORARY:
                self.change(b, kind=Kind.RELEASED)
        changed = self._folded_in_blocks.setdefault(parameter, []) if block else []
        if not changed:
            changed += [
                self.add_buffer(f"{parameter}.{what}", size, Kind.STATE, Home.USER)
                for what, size in state
            ]
        return self.add_op(
            f"{FOLD}{parameter}{block}",
            reads=reads,
            mutates=(*changed, *mutates),
            scratch=scratch,
            cost=cost,
            after=after,
            where=where,
        )

    def change(self, b: BufferId, *, kind: Kind | None = None, home: Home | None = None) -> None:
        """Gives a buffer another kind or home."""
        old = self.buffers[b]
        self.buffers[b] = replace(old, kind=kind or old.kind, home=home or old.home)

    def keep(self, b: BufferId, kind: Kind, home: Home | None = None) -> None:
        """Notes what becomes of a result: an output, a gradient or a saved tensor.

        Nothing changes for a buffer of the user's, or one that is kept already.
        """
        if self.buffers[b].home is not Home.USER and not self.buffers[b].kept:
            self.change(b, kind=kind, home=home)

    def problem(self, name: str) -> Problem:
        return Problem(name, tuple(self.buffers), tuple(self.ops))


def _unique(name: str, taken: set[str]) -> str:
    """Returns a name that is not taken, for an op or buffer that the backward computes again."""
    while name in taken:
        name += "'"
    taken.add(name)
    return name
