"""The edit that moves a buffer to another tier and back: ops start transfers and wait for them.

    device   h  [made ..... h~file~1.wait)          h~1  [h~1.start ..... last use)
    file     h~file~1   [h~file~1.start ....................... h~1.wait)

A transfer reads its source from the start to the wait, so nobody may change or free that in
between. The wait changes the target, so whoever uses the target comes after the wait.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from roam.core.draft import Content, Draft, DraftOp, Edit, turn
from roam.core.errors import EditError
from roam.core.problem import BufferId, Home, Lane, Op, Tier


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way of a buffer back to the device.

    readers: the ops that use what comes back.
    start: the op before which the transfer starts; the one of `wait` if empty.
    wait: the op before which the transfer is waited for; the first of the readers if empty.
    """

    readers: tuple[str, ...]
    start: str = ""
    wait: str = ""


class Offload(Edit, frozen=True):
    """Moves a buffer to another tier, and back for those that use it there.

    A buffer that the step makes is written once, and its bytes on the device are free once that
    write has been waited for. A buffer of the user's, such as an optimizer's state, stays in the
    tier between steps: every op that uses it needs a load. It is written back if they change it.

    buffer: what moves.
    tier: where it goes.
    loads: its ways back.
    start: the op before which the write starts; if empty, it starts behind the op that the bytes
        come from.
    wait: the op before which the write is waited for; if empty, that is behind the last op before
        the first load that uses the bytes, and for a buffer of the user's at the end of the step.
    """

    buffer: str
    tier: Tier
    loads: tuple[Load, ...]
    start: str = ""
    wait: str = ""

    def change(self, draft: Draft) -> None:
        """Adds the transfers, and turns the readers to what they load."""
        moved = draft.buffer(self.buffer, self)
        buffer = draft.buffers[moved]
        if self.tier is Tier.DEVICE or buffer.tier is not Tier.DEVICE:
            raise EditError(f"buffer {self.buffer!r} cannot go from {buffer.tier} to {self.tier}")
        if not (self.loads and all(load.readers for load in self.loads)):
            raise EditError(f"buffer {self.buffer!r} comes back from {self.tier} for no reader")
        if buffer.home is Home.USER:
            self._move_users(draft, moved)
        else:
            self._move_made(draft, moved)

    def _move_made(self, draft: Draft, moved: BufferId) -> None:
        """There and back: the bytes leave the device for a slot of the tier."""
        readers = [draft.op(name, self) for load in self.loads for name in load.readers]
        content = draft.content(readers, moved)
        name = _numbered(draft, f"{self.buffer}~{self.tier}")
        slot = draft.add_buffer(moved, name, tier=self.tier, home=Home.ARENA)
        loading = draft.first([self._load(draft, load, moved, slot) for load in self.loads])
        found = draft.leaving(content, [moved])
        start, wait = _transfer(draft, name, Lane.COPY_OUT, (moved, slot), content)
        self._insert_start(draft, start, found and found[0])
        if self.wait:
            draft.insert(wait, before=draft.op(self.wait, self))
        else:
            early = draft.ops[: draft.ops.index(loading)]
            users = [op for op in early if moved in op.finds]
            draft.insert(wait, behind=users[-1] if users else start)

    def _move_users(self, draft: Draft, stored: BufferId) -> None:
        """Back and there: the bytes are in the tier when the step begins, and when it ends."""
        draft.buffers[stored] = replace(draft.buffers[stored], tier=self.tier)
        for load in self.loads:
            self._load(draft, load, stored, stored)
        content = draft.final[stored]
        loaded = [b for b, root in draft.made_as.items() if root == stored != b]
        if content != Content(stored, 0) and (found := draft.leaving(content, loaded)):
            name = _numbered(draft, f"{self.buffer}~back")
            start, wait = _transfer(draft, name, Lane.COPY_OUT, (found[1], stored), content)
            self._insert_start(draft, start, found[0])
            draft.insert(wait, before=draft.op(self.wait, self) if self.wait else None)

    def _load(self, draft: Draft, load: Load, moved: BufferId, slot: BufferId) -> DraftOp:
        """Adds a load; returns its start."""
        readers = [draft.op(name, self) for name in load.readers]
        first = draft.first(readers)
        content = draft.content([first], moved)
        name = _numbered(draft, draft.root_name(moved))
        back = draft.add_buffer(moved, name, home=Home.ARENA, tier=Tier.DEVICE)
        start, wait = _transfer(draft, name, Lane.COPY_IN, (slot, back), content)
        draft.insert(wait, before=draft.op(load.wait, self) if load.wait else first)
        draft.insert(start, before=draft.op(load.start, self) if load.start else wait)
        for reader in readers:
            turn(reader, draft.used(reader, moved), back)
        return start

    def _insert_start(self, draft: Draft, start: DraftOp, source: DraftOp | None) -> None:
        """Puts the start of the write where the edit says, or behind the op its bytes come from."""
        before = draft.op(self.start, self) if self.start else None
        draft.insert(start, before=before, behind=source)


def _numbered(draft: Draft, stem: str) -> str:
    return f"{stem}~{draft.free([f'{stem}~'], ('', '.start', '.wait'))}"


def _transfer(
    draft: Draft, name: str, lane: Lane, way: tuple[BufferId, BufferId], content: Content
) -> tuple[DraftOp, DraftOp]:
    """Returns the start of a transfer and the wait for it, for the caller to insert.

    Only the wait leaves the content in the target, so that nobody uses that before.
    """
    source, target = way
    on_the_way = content._replace(form="a transfer")
    there = draft.buffers[target].home is Home.USER
    end = Op(
        name=f"{name}.wait",
        reads=(source,),
        mutates=(target,),
        where=draft.buffers[source].where,
        lane=lane,
    )
    begin = replace(
        end,
        name=f"{name}.start",
        creates=() if there else (target,),
        mutates=(target,) if there else (),
    )
    finds = {source: content, target: on_the_way}
    found = {source: content, target: Content(target, 0)} if there else {source: content}
    return (
        DraftOp(begin, [], found, {target: on_the_way}, begin.name),
        DraftOp(end, [], finds, {target: content}, end.name),
    )
