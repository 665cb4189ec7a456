"""Runs rewrites on a captured graph before it is partitioned, and corrects its fake values."""

from __future__ import annotations

from torch import fx

from roam.capture import trials
from roam.lowering.aten.decompositions import parts
from roam.lowering.aten.partitioned_graph import TRIED
from roam.options import Options
from roam.passes.annotations.real_layouts import RealLayouts
from roam.passes.pipeline import Pass, rewritten
from roam.passes.rewrites.drop_clones import DropClones
from roam.passes.rewrites.recompute import Recompute
from roam.passes.rewrites.saved import SavedRewrite, ShrinkSaved, Told
from roam.passes.rewrites.split import Split, SplitComposites
from roam.passes.rewrites.table import rewrites

# Run before any pass that relies on strides: RealLayouts corrects the strides of fake values, by
# what operators returned when TRIED ran each distinct call once.
TRUTHS = (TRIED, RealLayouts(trials.layouts))


def rewritten_joint(
    joint: fx.GraphModule, options: Options, told: Told, *, folds: bool
) -> fx.GraphModule:
    """Rewrites a graph of a forward and its backward. Returns the new graph.

    Applies the rewrites that always run and those that the options ask for. Also corrects the
    graph's fake values (`TRUTHS`).

    Args:
        joint: the graph, which stays as it is.
        options: the user's options, some of which ask for rewrites.
        told: records which saved tensors the rewrites keep smaller, and which rewrites fail. The
            rewrites that fail are left out.
        folds: whether an optimizer may absorb gradients in the backward.
    """
    passes = rewrites(
        "aten",
        options.rewrites,
        split=options.split,
        folds=folds,
        shrink=ShrinkSaved(recompute=options.exact_recompute("aten"), told=told),
    )
    if options.recompute is False:
        passes = tuple(p for p in passes if not isinstance(p, Recompute))
    if not any(isinstance(p, (Split, ShrinkSaved)) for p in passes):
        return rewritten(passes, rewritten(TRUTHS, joint), told.failed)
    passes = tuple(SplitComposites(p, parts) if isinstance(p, Split) else p for p in passes)
    # corrects fake values once more, because Split and ShrinkSaved add ops
    return rewritten(TRUTHS, rewritten(passes, rewritten(TRUTHS, joint), told.failed))


def rewritten_alone(gm: fx.GraphModule, options: Options, told: Told) -> fx.GraphModule:
    """Rewrites a graph that has no backward. Returns the new graph.

    Applies only rewrites that work without a backward: `DropClones`, and the rewrites that the
    options ask for, except those of saved tensors. Corrects the graph's fake values first
    (`TRUTHS`). Rewrites that fail are recorded in `told` and left out.
    """
    asked = (r for r in options.rewrites if not isinstance(r, SavedRewrite))
    passes: tuple[Pass, ...] = (*asked, DropClones())
    return rewritten(passes, rewritten(TRUTHS, gm), told.failed)
