"""Finds the ops of a Problem that run in blocks of rows, by their names.

op7#1, op7#2, ...                      of the first group that is split
op9#2.1, ...                           of the second
mm#fold3.1, fold_w#fold3.1, ...        make and fold blocks of rows of the gradient of w
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from roam.core.build import FOLD
from roam.core.problem import Op, Problem, find_users
from roam.core.sizes import show_size

_BLOCK = re.compile(r"#(?:(\w+)\.)?(\d+)$")  # the group, if not the first; number of the block


@dataclass(frozen=True)
class SplitGroup:
    """Ops that run in blocks of rows.

    Attributes:
        what: the subject and verb of the description: the module of the first op "runs", or a
            gradient "is made and folded".
        blocks: the number of blocks.
        block_bytes: bytes of the largest tensor that only the ops of one block use.
        whole_bytes: bytes that this tensor would have in one piece: the sum over the blocks.
    """

    what: str
    blocks: int
    block_bytes: int
    whole_bytes: int

    def __str__(self) -> str:
        at_a_time, whole = show_size(self.block_bytes), show_size(self.whole_bytes)
        return f"{self.what} in {self.blocks} blocks of rows: {at_a_time} at a time of {whole}"


def split_groups(problem: Problem) -> tuple[SplitGroup, ...]:
    """Returns the groups of ops that run in blocks by number, then gradients folded in blocks."""
    groups = ops_by_block(problem)
    in_order = sorted(groups, key=lambda name: (not name.isdigit(), len(name), name))
    return tuple(_group(problem, groups[name]) for name in in_order)


def ops_by_block(problem: Problem) -> dict[str, dict[int, list[Op]]]:
    """Returns by group of ops, and by number of a block in it, the ops of the block."""
    found: dict[str, dict[int, list[Op]]] = defaultdict(lambda: defaultdict(list))
    for op in problem.ops:
        if end := _BLOCK.search(op.name):
            found[end[1] or "1"][int(end[2])].append(op)
    return found


def _group(problem: Problem, blocks: dict[int, list[Op]]) -> SplitGroup:
    users = find_users(problem.ops, len(problem.buffers))
    largest: list[int] = []
    for ops in blocks.values():
        names = {op.name for op in ops}
        own = (
            problem.buffers[b].size
            for op in ops
            for b in op.creates
            if all(problem.ops[user].name in names for user in users[b])
        )
        largest.append(max(own, default=0))
    every = [op for block in blocks.values() for op in block]
    folded = next((op.name.partition("#")[0] for op in every if op.name.startswith(FOLD)), None)
    if folded is not None:
        what = f"the gradient of {folded.removeprefix(FOLD)} is made and folded"
    else:
        what = next((op.where for op in every if op.where), "the model") + " runs"
    return SplitGroup(what, len(blocks), max(largest), sum(largest))
