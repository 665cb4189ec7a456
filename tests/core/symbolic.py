"""What a step computes, as terms: a small interpreter, with no code of the edits'.

A term is the name of a buffer of the user's, or what an op makes of its operands' terms. A copy,
`gelu~1`, computes what `gelu` computes. A transfer is there when it has been waited for, and gives
what its source held all the time since its start.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from roam.core.problem import Home, Lane, OpId, Problem

Term = Hashable


@dataclass
class Computed:
    """operands: for every op the terms it found. left: what a buffer holds at the end."""

    operands: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    left: dict[str, Term] = field(default_factory=dict)


def compute(problem: Problem, order: Sequence[OpId]) -> Computed:
    """Runs the ops in an order."""
    memory: dict[int, Term] = {
        b: buffer.name for b, buffer in enumerate(problem.buffers) if buffer.home is Home.USER
    }
    under_way: dict[str, Term] = {}
    done = Computed()
    for i in order:
        op = problem.ops[i]
        if op.lane in (Lane.COPY_IN, Lane.COPY_OUT):
            (source,), (target,) = op.reads, (*op.creates, *op.mutates)
            name, _, end = op.name.rpartition(".")
            if end == "start":
                under_way[name] = memory[source]
                memory[target] = ("torn", op.name)
            else:
                same = under_way[name] == memory[source]
                memory[target] = memory[source] if same else ("torn", op.name)
            continue
        found = tuple(memory[b] for b in (*op.reads, *op.mutates))
        done.operands[op.name] = found
        for k, b in enumerate((*op.creates, *op.mutates)):
            memory[b] = (op.name.partition("~")[0], k, found)
    done.left = {problem.buffers[b].name: term for b, term in memory.items()}
    return done


def assert_same(unedited: Problem, edited: Problem, order: Sequence[OpId]) -> None:
    """Every op of the unedited problem finds what it found, and the user is left the same."""
    before = compute(unedited, range(len(unedited.ops)))
    after = compute(edited, order)
    for name, found in before.operands.items():
        assert after.operands[name] == found, name
    for buffer in unedited.buffers:
        if buffer.home is Home.USER or buffer.kept:
            assert after.left[buffer.name] == before.left[buffer.name], buffer.name
