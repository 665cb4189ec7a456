"""Which rewrites run on a joint graph, before it is cut into forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

from roam.passes.pipeline import Pass
from roam.passes.rewrites.common_subexpressions import CommonSubexpressions
from roam.passes.rewrites.cross_entropy_backward import CrossEntropyBackward
from roam.passes.rewrites.drop_clones import DropClones
from roam.passes.rewrites.recompute import Recompute

# They keep every bit of the results, and always run. Inductor does what the first, second and
# fourth do by itself, and has no operator of the third's kind left when it sees a graph.
EXACT: dict[str, tuple[Pass, ...]] = {
    "aten": (CommonSubexpressions(), DropClones(), CrossEntropyBackward(), Recompute()),
    "inductor": (),
}


def rewrites(lowering: str, asked: Sequence[Pass] = ()) -> tuple[Pass, ...]:
    """Returns what to run on a joint graph of a lowering: what the user asked for, then EXACT.

    The user's come first: they look for what a model's author wrote.
    """
    return (*asked, *EXACT[lowering])
