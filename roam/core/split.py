"""The edit that runs a chain of ops block by block, so that what is between never exists whole.

    unsplit    x ─ up ─ h ─ gelu ─ a ─ down ─ y        h and a are large

    blocks     x ─ up#1 ─ h#1 ─ gelu#1 ─ a#1 ─ down#1 ─┐
               x ─ up#2 ─ h#2 ─ gelu#2 ─ a#2 ─ down#2 ─┴─ y

The first block makes each result, the others write their rows into it (`joined`), or add to it what
their rows give (`summed`: the gradient of a weight, a loss). What is read from outside, all blocks
read. What an op of the chain changes outside, such as a fold the weights, it changes row by row.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from msgspec.structs import replace

from roam.core.draft import Content, Draft, DraftOp, Edit, why_once
from roam.core.errors import EditError
from roam.core.problem import BufferId, OpId, find_makers, find_predecessors, find_users


class Split(Edit, frozen=True):
    """Runs a group of ops in blocks of rows: all of them on the first rows, then on the next.

    Whoever makes this edit knows that the ops are independent along the rows; `apply` sees only
    who uses what. Ops of two phases run in the earlier one then.

    ops: the group. No op outside it may come between, waiting for one of them and awaited by
        another.
    rows: rows of each block, at least two blocks. Buffers inside are cut in these proportions.
    joined: buffers that the group makes and others use; each block writes its own rows.
    summed: the same, but each block adds to all of it.
    """

    ops: tuple[str, ...]
    rows: tuple[int, ...]
    joined: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()

    def change(self, draft: Draft) -> None:
        """Puts the blocks in place of the group."""
        if len(self.rows) < 2 or min(self.rows) < 1:
            raise EditError(f"{self.rows} is no list of at least two blocks of rows")
        named = {id(op): op for op in (draft.op(name, self) for name in self.ops)}
        group = [op for op in draft.ops if id(op) in named]
        if not group:
            raise EditError("a group without ops cannot be split")
        inside = self._inside(draft, group)
        order = _contracted(draft, group)
        blocks = [self._block(draft, group, inside, k) for k in range(len(self.rows))]
        at = order.index(None)
        draft.ops = [op for op in order[:at] if op]
        draft.ops += [op for block in blocks for op in block]
        draft.ops += [op for op in order[at:] if op]
        draft.gone.update(inside)
        draft.replace(group, [list(of_op) for of_op in zip(*blocks, strict=True)])

    def _inside(self, draft: Draft, group: list[DraftOp]) -> list[BufferId]:
        """The buffers that exist in blocks only. Raises EditError if the group cannot be split."""
        made = [b for op in group for b in op.op.creates]
        results = [draft.buffer(name, self) for name in (*self.joined, *self.summed)]
        for b in results:
            if b not in made:
                raise EditError(f"the group does not make {draft.buffers[b].name!r}: {self!r}")
        members = {id(op) for op in group}
        inside = [b for b in made if b not in results]
        outside = {b: o.name for o in draft.ops if id(o) not in members for b in o.finds}
        for b in inside:
            buffer = draft.buffers[b]
            if b in outside or buffer.kept:
                who = "the user" if buffer.kept else f"op {outside[b]!r}"
                raise EditError(f"{buffer.name!r} exists in blocks only, and {who} needs it whole")
            if buffer.size % sum(self.rows):
                raise EditError(
                    f"{buffer.name!r} has {buffer.size} bytes, which is no multiple of "
                    f"{sum(self.rows)} rows"
                )
        self._check_ops(draft, group, inside)
        return inside

    def _check_ops(self, draft: Draft, group: list[DraftOp], inside: list[BufferId]) -> None:
        """Raises EditError if an op must not run in parts, or would use parts as the whole."""
        whole = {draft.buffer(name, self) for name in self.summed}
        results = whole | {draft.buffer(name, self) for name in self.joined}
        for op in group:
            if why := why_once(op):
                raise EditError(f"op {op.name!r} cannot be split: {why}")
            for b in op.op.mutates:
                others = [o.name for o in group if o is not op and b in (*o.finds, *o.op.creates)]
                if b not in inside and others:
                    raise EditError(
                        f"op {op.name!r} changes {draft.buffers[b].name!r} block by block, which "
                        f"op {others[0]!r} of the group uses"
                    )
            if found := whole & op.finds.keys():
                names = ", ".join(repr(draft.buffers[b].name) for b in found)
                raise EditError(f"op {op.name!r} reads {names} before all blocks are summed")
            if found := results & set(op.op.mutates):
                raise EditError(f"op {op.name!r} changes {draft.buffers[min(found)].name!r}")

    def _block(
        self, draft: Draft, group: list[DraftOp], inside: list[BufferId], k: int
    ) -> list[DraftOp]:
        """The ops of block k, with the buffers between them."""
        share, total = self.rows[k], sum(self.rows)
        part: dict[BufferId, BufferId] = {}
        for b in inside:
            old = draft.buffers[b]
            size = old.size * share // total
            part[b] = draft.add_buffer(b, f"{old.name}#{k + 1}", size=size, kind=old.kind)
            draft.made_as[part[b]] = part[b]
        results = {b for op in group for b in op.op.creates} - part.keys()
        made: dict[int, DraftOp] = {}
        for op in group:
            there = tuple(b for b in op.op.creates if b in results) if k else ()
            new = replace(
                op.op,
                name=f"{op.name}#{k + 1}",
                reads=tuple(part.get(b, b) for b in op.op.reads),
                creates=tuple(part.get(b, b) for b in op.op.creates if b not in there),
                mutates=tuple(part.get(b, b) for b in (*op.op.mutates, *there)),
                over=tuple((part[a], part[b]) for a, b in op.op.over if a in part and b in part),
                scratch=-(-op.op.scratch * share // total),
                phase=group[0].op.phase,
                cost=op.op.cost * share / total,
            )
            finds = {b: self._after(c, k) if b in results else c for b, c in op.finds.items()}
            if k:  # what the block before has left, where it has been already
                changed = (*(b for b in op.op.mutates if b not in part), *there)
                finds |= {b: self._after(op.leaves[b], k - 1) for b in changed}
            leaves = {b: self._after(c, k) for b, c in op.leaves.items()}
            made[id(op)] = DraftOp(
                new,
                [made.get(id(p), p) for p in op.after],
                _in_parts(finds, part),
                _in_parts(leaves, part),
                new.name,
            )
        return list(made.values())

    def _after(self, content: Content, k: int) -> Content:
        """What is in a buffer that all blocks work on, once block k has."""
        if k == len(self.rows) - 1:
            return content
        return content._replace(form=f"{k + 1} blocks of {len(self.rows)}, {content.form}")


def _in_parts(
    contents: dict[BufferId, Content], part: dict[BufferId, BufferId]
) -> dict[BufferId, Content]:
    """The contents of the parts for those of the whole buffers, whose rows are no block's yet."""
    return {
        part.get(b, b): Content(part[b], content.version) if b in part else content
        for b, content in contents.items()
    }


def _contracted(draft: Draft, group: list[DraftOp]) -> list[DraftOp | None]:
    """The other ops in an order in which the group, as one op, stands where None is.

    Raises EditError if there is none, since an op comes between ops of the group.
    """
    index = {id(op): i for i, op in enumerate(draft.ops)}
    ops = [replace(op.op, after=tuple(index[id(p)] for p in op.after)) for op in draft.ops]
    users = find_users(ops, len(draft.buffers))
    before = find_predecessors(ops, find_makers(ops, len(draft.buffers)), users)
    leader = {index[id(op)]: index[id(group[0])] for op in group}

    waits: dict[OpId, set[OpId]] = {i: set() for i in range(len(ops)) if leader.get(i, i) == i}
    for i, earlier in enumerate(before):
        waits[leader.get(i, i)] |= {leader.get(p, p) for p in earlier}
    successors: dict[OpId, list[OpId]] = {i: [] for i in waits}
    for i, earlier_ones in waits.items():
        earlier_ones.discard(i)
        for p in earlier_ones:
            successors[p].append(i)

    ready = [(ops[i].phase, i) for i, earlier_ones in waits.items() if not earlier_ones]
    heapify(ready)
    order: list[DraftOp | None] = []
    while ready:
        _, i = heappop(ready)
        order.append(None if i in leader else draft.ops[i])
        for s in successors[i]:
            waits[s].discard(i)
            if not waits[s]:
                heappush(ready, (ops[s].phase, s))
    if None not in order:
        stuck = min(waits[index[id(group[0])]])
        raise EditError(
            f"op {ops[stuck].name!r} comes between ops of the group: it waits for one of them, "
            "and another waits for it"
        )
    return order
