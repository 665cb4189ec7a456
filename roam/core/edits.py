"""Edits: decisions that change a Problem, as data. An edited Problem is a Problem again.

    Recompute   an op runs again, and some readers use the copy's results    costs time
    Split       a chain of ops runs block by block (split.py)                costs time
    Offload     a buffer goes to another tier, and comes back (offload.py)   costs transfers
    Shrink      readers get by with something smaller than a buffer          changes results

Edits name ops and buffers, also those that an earlier edit has made. They take effect one by one,
and only the whole must be legal. A chain is recomputed from its end. With a, b, c in a row,

    Recompute("c", readers=("use",))      c~1 reads what b makes
    Recompute("b", readers=("c~1",))      b~1 reads what a makes, c~1 what b~1 makes

All but `Shrink` are exact: every op finds in what it reads what it finds there in the unedited
step, or `apply` raises EditError. So a copy stands before any change of what it reads.

What an edit makes is named after what it stands for: `gelu~1` and `gelu~2` are copies of `gelu`,
`h~file~1` holds `h` in a file, and the ops `h~file~1.start` and `h~file~1.wait` bring it there.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from roam.core.draft import Draft, DraftOp, Edit, turn, why_once
from roam.core.errors import EditError
from roam.core.offload import Load as Load
from roam.core.offload import Offload as Offload
from roam.core.problem import Op, Problem
from roam.core.split import Split as Split


class Recompute(Edit, frozen=True):
    """Runs an op again, with fresh buffers.

    op: the op, or a copy of it. The new copy reads what that one reads.
    readers: the ops that use the new copy's results in place of the op's, or of another copy's.
    before: the op in front of which the copy stands in program order, in the same phase; the first
        of the readers if empty. A planner may move the copy as it may move any op.
    """

    op: str
    readers: tuple[str, ...]
    before: str = ""

    def change(self, draft: Draft) -> None:
        """Adds the copy, and turns the readers to it."""
        source = draft.op(self.op, self)
        if why := why_once(source) or _changes(draft, source):
            raise EditError(f"op {self.op!r} cannot be copied: {why}")
        readers = [draft.op(name, self) for name in self.readers]
        if not readers:
            raise EditError(f"a copy of {self.op!r} has no readers")
        n = draft.free(
            f"{name}~" for name in (source.root, *map(draft.root_name, source.op.creates))
        )
        fresh = {b: draft.add_buffer(b, f"{draft.root_name(b)}~{n}") for b in source.op.creates}
        copy = replace(
            source.op,
            name=f"{source.root}~{n}",
            creates=tuple(fresh.values()),
            over=tuple((fresh[made], dying) for made, dying in source.op.over),
        )
        leaves = {fresh[b]: content for b, content in source.leaves.items()}
        draft.insert(
            DraftOp(copy, list(source.after), dict(source.finds), leaves, source.root),
            before=draft.op(self.before, self) if self.before else draft.first(readers),
        )
        for reader in readers:
            used = {draft.stand_in(reader, b): new for b, new in fresh.items()}
            old_ones = [b for b in used if b is not None]
            if not old_ones:
                raise EditError(f"op {reader.name!r} reads nothing that {self.op!r} makes")
            for old in old_ones:
                turn(reader, old, used[old])


class Shrink(Edit, frozen=True):
    """Gives readers something smaller than a buffer, made by an approximate rewrite.

    buffer: what is large.
    size: bytes of what is kept in its place.
    method: the rewrite, for names and reports.
    readers: the ops that use the smaller one.
    restored: whether they need a buffer of the old size, made from the smaller one before the
        first of them. Another copy of it is a `Recompute` of the op that restores.
    shrink_cost, restore_cost: seconds that the two ops take.
    """

    buffer: str
    size: int
    method: str
    readers: tuple[str, ...]
    restored: bool = False
    shrink_cost: float = 0.0
    restore_cost: float = 0.0

    def change(self, draft: Draft) -> None:
        """Adds the op that shrinks and the one that restores, and turns the readers to it."""
        large = draft.buffer(self.buffer, self)
        buffer = draft.buffers[large]
        if not 0 <= self.size < buffer.size:
            raise EditError(
                f"buffer {self.buffer!r} cannot shrink from {buffer.size} to {self.size} bytes"
            )
        if not self.readers:
            raise EditError(f"no op reads what {self.buffer!r} is shrunk to")
        readers = [draft.op(name, self) for name in self.readers]
        content = draft.content(readers, large)
        form = content._replace(form=f"{self.method} of {content.form}".removesuffix(" of "))
        name = f"{self.buffer}~{self.method}~"
        name += str(draft.free([name], ("", ".whole")))
        small = draft.add_buffer(large, name, size=self.size)
        draft.made_as[small] = small
        found = draft.leaving(content, [large])
        shrink = Op(name, (large,), (small,), cost=self.shrink_cost, where=buffer.where, once=True)
        draft.insert(
            DraftOp(shrink, [], {large: content}, {small: form}, name),
            before=None if found else draft.ops[0],
            behind=found and found[0],
        )
        turned = small
        if self.restored:
            turned = draft.add_buffer(large, f"{name}.whole")
            restore = Op(
                f"{name}.whole", (small,), (turned,), cost=self.restore_cost, where=buffer.where
            )
            draft.insert(
                DraftOp(restore, [], {small: form}, {turned: content}, restore.name),
                before=draft.first(readers),
            )
        for reader in readers:
            turn(reader, draft.used(reader, large), turned)
            if not self.restored:
                reader.finds[small] = form


AnyEdit = Recompute | Split | Offload | Shrink  # what files may hold


def apply(problem: Problem, edits: Sequence[AnyEdit]) -> Problem:
    """Returns the edited problem; the problem itself if there are no edits.

    The buffers come first that were there, in their order, then new ones. Ids may change. The same
    edits of the same problem give the same result.

    Raises:
        EditError: an edit names what is not there or is no change that its kind allows, or with
            all of them an op would not read what it reads in the unedited step.
    """
    if not edits:
        return problem
    draft = Draft(problem)
    for edit in edits:
        edit.change(draft)
    return draft.finish()


def _changes(draft: Draft, made: DraftOp) -> str:
    names = ", ".join(repr(draft.buffers[b].name) for b in made.op.mutates)
    return names and f"it changes {names}"
