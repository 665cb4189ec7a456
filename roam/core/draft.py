"""A Problem that is being edited: ops come and go, and readers turn to other buffers.

An edit must not change what the step computes. So every op knows the *content* of each buffer that
it reads: which buffer's bytes they are, and how often these had been changed. In program order

    op                reads                  leaves
    linear            x as made              h as made
    copy of linear    x as made              h~1, with the content "h as made"
    update            x as made              x, with the content "x changed once"

When all edits are applied, `finish` replays the ops. Wherever an op would find another content than
it read in the unedited step, the edits are illegal: a copy of `linear` behind `update`, say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from roam.core.errors import EditError, ProblemError
from roam.core.problem import Buffer, BufferId, Home, Kind, Lane, Op, OpId, Problem


class Edit(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag=lambda name: name.lower(),
):
    """One decision that changes a Problem, as data. In files it is told by its name."""

    def change(self, draft: Draft) -> None:
        """Makes the change. Raises EditError if it is no change that the problem allows."""
        raise NotImplementedError


class Content(NamedTuple):
    """Bytes by what they are: those of a buffer of the unedited problem.

    version: how many ops had changed the buffer.
    form: '' for the bytes as they are; else what an edit made of them.
    """

    buffer: BufferId
    version: int
    form: str = ""


@dataclass(eq=False)
class DraftOp:
    """An op of a draft. Its `after` are ops, since their places still change.

    finds: the content of every buffer that it reads or changes, before it runs.
    leaves: the content of every buffer that it creates or changes, once it has run.
    root: the name of the op of the unedited problem that it is, or is a copy of.
    """

    op: Op
    after: list[DraftOp]
    finds: dict[BufferId, Content]
    leaves: dict[BufferId, Content]
    root: str

    @property
    def name(self) -> str:
        return self.op.name


class Draft:
    """The ops in program order, and the buffers: those of the unedited problem, then new ones.

    made_as: for every buffer the one that it is, or stands for.
    gone: buffers that no op makes or uses any more.
    final: what the unedited step leaves in each of its buffers.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.buffers = list(problem.buffers)
        self.ops: list[DraftOp] = []
        self.made_as = {b: b for b in range(len(self.buffers))}
        self.gone: set[BufferId] = set()
        self.final = {b: Content(b, 0) for b in range(len(self.buffers))}
        for op in problem.ops:
            finds = {b: self.final[b] for b in (*op.reads, *op.mutates)}
            leaves = {b: self.final[b] for b in op.creates}
            for b in op.mutates:
                leaves[b] = self.final[b] = Content(b, self.final[b].version + 1)
            self.ops.append(DraftOp(op, [], finds, leaves, op.name))
        for made in self.ops:
            made.after = [self.ops[p] for p in made.op.after]
        self._gates = [self._gate(ops) for ops in self.problem.phases]
        self._op_names = {made.name: made for made in self.ops}
        self._buffer_names = {buffer.name: b for b, buffer in enumerate(self.buffers)}

    def op(self, name: str, edit: Edit) -> DraftOp:
        """Returns the op of that name. Raises EditError if there is none."""
        if name not in self._op_names:
            raise EditError(f"{edit!r} names the op {name!r}, which does not exist")
        return self._op_names[name]

    def buffer(self, name: str, edit: Edit) -> BufferId:
        """Returns the buffer of that name. Raises EditError if there is none any more."""
        if self._buffer_names.get(name) in (None, *self.gone):
            raise EditError(f"{edit!r} names the buffer {name!r}, which does not exist")
        return self._buffer_names[name]

    def free(self, stems: Iterable[str], endings: Sequence[str] = ("",)) -> int:
        """Returns the least n from 1 on for which nothing is called stem + n + ending."""
        stems = list(stems)
        n = 1
        while any(
            (name := f"{stem}{n}{ending}") in self._op_names or name in self._buffer_names
            for stem in stems
            for ending in endings
        ):
            n += 1
        return n

    def add_buffer(self, like: BufferId, name: str, **changes: Any) -> BufferId:
        """Adds a temporary buffer with the fields of another one, but for some changes."""
        b = len(self.buffers)
        changes = {"kind": Kind.TEMPORARY, **changes}
        self.buffers.append(replace(self.buffers[like], name=name, **changes))
        self._buffer_names[name] = b
        self.made_as[b] = self.made_as[like]
        return b

    def root_name(self, b: BufferId) -> str:
        """Returns the name of the buffer that this one is, or stands for."""
        return self.buffers[self.made_as[b]].name

    def insert(
        self, new: DraftOp, *, before: DraftOp | None = None, behind: DraftOp | None = None
    ) -> DraftOp:
        """Puts an op next to another one, into its phase. It waits for what that phase waits for.

        Args:
            new: the op.
            before: the op that comes next then.
            behind: without `before`, the op that came last then; the last of all if None too.
        """
        anchor = before or behind or self.ops[-1]
        at = self.ops.index(anchor) + (before is None)
        new.op = replace(new.op, phase=anchor.op.phase)
        gates = (p for p in self._gates[new.op.phase] if p not in new.after)
        new.after += [p for p in gates if self.ops.index(p) < at]
        self.ops.insert(at, new)
        self._op_names[new.name] = new
        return new

    def replace(self, old: Sequence[DraftOp], new: Sequence[Sequence[DraftOp]]) -> None:
        """Lets the ops of `new` stand for those of `old`, each for its own.

        The caller puts them into `ops`.
        """
        instead = {id(gone): list(those) for gone, those in zip(old, new, strict=True)}
        for waits in (*self._gates, *(made.after for made in self.ops)):
            waits[:] = dict.fromkeys(q for p in waits for q in instead.get(id(p), [p]))
        for gone in old:
            del self._op_names[gone.name]
        for those in new:
            self._op_names |= {made.name: made for made in those}

    def first(self, ops: Iterable[DraftOp]) -> DraftOp:
        """Returns the one that comes first in program order."""
        return min(ops, key=self.ops.index)

    def stand_in(self, reader: DraftOp, b: BufferId) -> BufferId | None:
        """Returns the buffer that an op uses as `b`: itself or one that stands for it."""
        root = self.made_as[b]
        return next((used for used in reader.finds if self.made_as[used] == root), None)

    def used(self, reader: DraftOp, b: BufferId) -> BufferId:
        """Returns what `stand_in` does. Raises EditError if the op does not use the buffer."""
        if (used := self.stand_in(reader, b)) is None:
            raise EditError(f"op {reader.name!r} does not use {self.buffers[b].name!r}")
        return used

    def content(self, readers: Sequence[DraftOp], b: BufferId) -> Content:
        """Returns what ops find in a buffer. Raises EditError if it is not the same for all."""
        found = {reader.finds[self.used(reader, b)]: reader.name for reader in readers}
        if len(found) > 1:
            raise EditError(
                f"ops {', '.join(map(repr, found.values()))} find different contents in "
                f"{self.buffers[b].name!r}: an op changes it in between"
            )
        return next(iter(found))

    def leaving(
        self, content: Content, among: Iterable[BufferId]
    ) -> tuple[DraftOp, BufferId] | None:
        """Returns the first op that leaves that content in one of some buffers, and which it is."""
        wanted = set(among)
        for made in self.ops:
            for b, left in made.leaves.items():
                if b in wanted and left == content:
                    return made, b
        return None

    def finish(self) -> Problem:
        """Returns the edited Problem.

        Raises:
            EditError: an op would read what it did not read before, the step would leave something
                else in a buffer of the user's, or the ops are no program.
        """
        self._replay()
        index = {id(made): i for i, made in enumerate(self.ops)}
        ids = {old: new for new, old in enumerate(b for b in self.made_as if b not in self.gone)}
        ops = [
            replace(
                made.op,
                reads=tuple(ids[b] for b in made.op.reads),
                creates=tuple(ids[b] for b in made.op.creates),
                mutates=tuple(ids[b] for b in made.op.mutates),
                over=tuple((ids[a], ids[b]) for a, b in made.op.over),
                after=tuple(index[id(p)] for p in made.after),
            )
            for made in self.ops
        ]
        buffers = self._sorted_out()
        try:
            return Problem(self.problem.name, tuple(buffers[b] for b in ids), tuple(ops))
        except ProblemError as error:
            raise EditError(f"the edits make no program of the problem: {error}") from None

    def _replay(self) -> None:
        """Raises EditError if a buffer does not hold what an op, or the user, expects there."""
        own = (b for b in self.final if self.buffers[b].home is Home.USER)
        now = {b: Content(b, 0) for b in own}
        for made in self.ops:
            for b, content in made.finds.items():
                if now.get(b, content) != content:  # what is not made yet, Problem finds
                    raise EditError(
                        f"op {made.name!r} would find {_told(now[b])} in {self.buffers[b].name!r}, "
                        f"and reads {_told(content)} in the unedited step"
                    )
            now |= made.leaves
        for b, content in self.final.items():
            buffer = self.buffers[b]
            kept = buffer.home is Home.USER or buffer.kept
            if kept and now.get(b, content) != content:
                raise EditError(f"the edits would leave {_told(now[b])} in {buffer.name!r}")

    def _sorted_out(self) -> list[Buffer]:
        """The buffers, with those as saved that cross from a phase into a later one now."""
        was, now = _crossing(self.problem.ops), _crossing([made.op for made in self.ops])
        new = range(len(self.problem.buffers), len(self.buffers))
        return [
            replace(buffer, kind=Kind.SAVED if b in now else Kind.TEMPORARY)
            if buffer.kind in (Kind.SAVED, Kind.TEMPORARY)
            and (b in new or (b in was) != (b in now))
            else buffer
            for b, buffer in enumerate(self.buffers)
        ]

    def _gate(self, ops: Sequence[OpId]) -> list[DraftOp]:
        """What all ops of a phase wait for, such as that which makes its tangents."""
        waited_for = Counter(p for i in ops for p in self.problem.ops[i].after)
        return [self.ops[p] for p, waiting in waited_for.items() if waiting == len(ops) - 1]


def _crossing(ops: Sequence[Op]) -> set[BufferId]:
    """The buffers that an op makes and one of a later phase uses."""
    made_in = {b: op.phase for op in ops for b in op.creates}
    return {b for op in ops for b in op.touches if made_in.get(b, op.phase) < op.phase}


def _told(content: Content) -> str:
    form = f"{content.form} of " if content.form else ""
    return f"{form}what is there after {content.version} changes"


def why_once(made: DraftOp) -> str:
    """Returns why an op must not run twice or in parts, '' if it may."""
    if made.op.once:
        return "it has effects or draws random numbers"
    if made.op.lane is not Lane.COMPUTE:
        return f"its lane is {str(made.op.lane)!r}"
    return ""


def turn(made: DraftOp, old: BufferId, new: BufferId) -> None:
    """Makes an op use one buffer in place of another."""

    def renamed(ids: Iterable[BufferId]) -> tuple[BufferId, ...]:
        return tuple(dict.fromkeys(new if b == old else b for b in ids))

    op = made.op
    over = tuple((a, new if b == old else b) for a, b in op.over)
    made.op = replace(op, reads=renamed(op.reads), mutates=renamed(op.mutates), over=over)
    made.finds[new] = made.finds.pop(old)
    if old in op.mutates:
        made.leaves[new] = made.leaves.pop(old)
