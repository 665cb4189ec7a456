"""Which rewrites run on a joint graph, before it is cut into forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from roam.passes.pipeline import Pass
from roam.passes.rewrites.accumulate_gradients import AccumulateGradients
from roam.passes.rewrites.common_subexpressions import CommonSubexpressions
from roam.passes.rewrites.constant_masks import ConstantMasks
from roam.passes.rewrites.cross_entropy_backward import CrossEntropyBackward
from roam.passes.rewrites.drop_clones import DropClones
from roam.passes.rewrites.recompute import Recompute
from roam.passes.rewrites.saved import SavedRewrite, ShrinkSaved
from roam.passes.rewrites.split import Split
from roam.passes.rewrites.sums_of_broadcasts import SumsOfBroadcasts

# They always run, and keep every bit of the results. What only ATen's kernels get, Inductor does by
# itself, or, of cross entropy, has no operator left when it sees a graph.
EXACT: dict[str, tuple[Pass, ...]] = {
    "aten": (
        ConstantMasks(),
        CommonSubexpressions(),
        DropClones(),
        CrossEntropyBackward(),
        Recompute(),
    ),
    "inductor": (ConstantMasks(),),
}

# They add up in another order than the graph does, so they do not run if the option "split" is
# False, nor on ATen's kernels, whose promise is eager's bits.
REORDERING: dict[str, tuple[Pass, ...]] = {
    "aten": (),
    "inductor": (SumsOfBroadcasts(), AccumulateGradients()),
}

# What the option "split" chooses. None, the default: heads of language models with Inductor's
# kernels, and nothing with ATen's, since sums over blocks run in another order.
SPLITS: dict[tuple[str, bool | None], Split] = {
    ("inductor", None): Split(),
    ("inductor", True): Split(amplifies=2.0),
    ("aten", True): Split(amplifies=2.0),
}


def rewrites(
    lowering: str,
    asked: Sequence[Pass | SavedRewrite] = (),
    *,
    split: bool | None = None,
    folds: bool = False,
    recomputes: bool = False,
    shrink: ShrinkSaved,
) -> tuple[Pass, ...]:
    """Returns what to run on a joint graph of a lowering: what the user asked for, then the rest.

    The user's passes come first: they look for what a model's author wrote. Then come the user's
    rewrites of saved tensors, all in one pass.

    Args:
        lowering: the name of the lowering.
        asked: the user's rewrites.
        split: which groups of ops run in blocks of rows, a key of SPLITS.
        folds: whether an optimizer absorbs each gradient in the backward.
        recomputes: whether the backward computes results of pointwise ops again.
        shrink: applies rewrites of saved tensors; it gets those that the user asked for.
    """
    found = SPLITS.get((lowering, split))
    splits = () if found is None else (replace(found, folds=folds, recomputes=recomputes),)
    reordering = () if split is False else REORDERING[lowering]
    smaller = tuple(r for r in asked if isinstance(r, SavedRewrite))
    shrinks = (replace(shrink, rewrites=smaller),) if smaller else ()
    passes = (r for r in asked if not isinstance(r, SavedRewrite))
    return (*passes, *shrinks, *splits, *reordering, *EXACT[lowering])
