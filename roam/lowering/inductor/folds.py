"""Makes each fold, which absorbs a gradient into optimizer state, an op that Inductor compiles.

    mm ── buf7 ── roam::fold([primals_3], buf7, 2) ── del buf7

The first argument lists the inputs of the graph that share the parameter's memory. The list is
empty if the fold does not change the parameter. `roam::fold` declares that it changes these inputs,
so that Inductor runs the fold after all ops that read them. The other arguments are the gradient,
and the parameter's index among the inputs of the forward (or of a whole step).

Which optimizer absorbs the gradient is found at run time, in a record that the forward leaves of
its parameters' optimizers (a ticket, see `roam.step.foldable_gradients`). In the FX graph all folds
are at the end, so that they break no pattern that Inductor matches; the planner decides when they
run. Folds without scratch space that the planner puts next to each other become one call of the
optimizer:

    fold_later([primals_3], buf7, 2)       keeps the gradient
    fold_now([primals_5], buf9, 4)         absorbs both gradients, buf7 and buf9

A gradient that is made one block of rows after another is folded by `roam::fold_rows`, a call for
each block. A backward is compiled once for each list of folds, when it first runs with that list.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, fx
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode

from roam.lowering.inductor.origins import folded_in, release_of
from roam.passes.geometry import storage_key, value
from roam.passes.gradient_release import META, Release, RunFolds

log = logging.getLogger("roam")

_library = torch.library.Library("roam", "FRAGMENT")
_library.define(
    "fold(Tensor(a!)[] parameter, Tensor gradient, int index) -> ()",
    tags=(torch.Tag.flexible_layout,),
)
_library.define(
    "fold_rows(Tensor(a!)[] parameter, Tensor gradient, int index, int start) -> ()",
    tags=(torch.Tag.flexible_layout,),
)
FOLD = torch.ops.roam.fold.default
FOLD_ROWS = torch.ops.roam.fold_rows.default
_running = threading.local()


def fold_later(parameter: Sequence[Tensor], gradient: Tensor, index: int) -> None:
    """Keeps a gradient for this thread's next call of `fold_now`, which absorbs it too.

    Args:
        parameter: tensors that the fold may change, listed for Inductor. Not used here.
        gradient: the gradient.
        index: the parameter's index among the inputs of the forward, or of a whole step.
    """
    _running.waiting.append((index, gradient))


def fold_now(parameter: Sequence[Tensor], gradient: Tensor, index: int) -> None:
    """Absorbs a gradient, and those kept by `fold_later`, into the optimizer's state.

    Args:
        parameter: tensors that the fold may change, listed for Inductor. Not used here.
        gradient: the gradient.
        index: the parameter's index among the inputs of the forward, or of a whole step.
    """
    gradients, _running.waiting = [*_running.waiting, (index, gradient)], []
    _running.folds.absorb(gradients)


def fold_rows_now(parameter: Sequence[Tensor], gradient: Tensor, index: int, start: int) -> None:
    """Absorbs the gradient of a block of a parameter's rows into the optimizer's state.

    Args:
        parameter: tensors that the fold may change, listed for Inductor. Not used here.
        gradient: the gradient of the block.
        index: the parameter's index among the inputs of the forward, or of a whole step.
        start: the first row of the block.
    """
    _running.folds.absorb_rows(index, gradient, start)


_library.impl("fold", fold_now, "CompositeExplicitAutograd")
_library.impl("fold_rows", fold_rows_now, "CompositeExplicitAutograd")
for name in ("fold", "fold_rows"):
    _library.impl(name, lambda *_: None, "Meta")  # a fold does nothing while a graph is traced


@contextmanager
def absorbing(run: RunFolds) -> Iterator[None]:
    """A context in which the folds that this thread runs pass gradients to `run`.

    Contexts may be nested: at its end, each restores the one around it.
    """
    before = getattr(_running, "folds", None), getattr(_running, "waiting", None)
    _running.folds, _running.waiting = run, []
    try:
        yield
    finally:
        _running.folds, _running.waiting = before


def call_together(graph: GraphLowering, nodes: Sequence[BaseSchedulerNode]) -> None:
    """Makes the generated code call `fold_later` or `fold_now` in place of each op `roam::fold`.

    Each such op absorbs a gradient into an optimizer's state. Of several folds in succession, the
    last one calls `fold_now`, which absorbs the gradients of all of them. A fold with scratch space
    absorbs its gradient alone: its scratch space was planned for a time when the gradients of the
    folds before it have been freed. Does nothing if the wrapper is generated in C++.

    Args:
        graph: the graph whose code is generated next.
        nodes: the nodes of the graph, in the planned order.
    """
    folds = [_whole(release_of(node)) for node in nodes]
    if graph.cpp_wrapper or not any(folds):
        return
    graph.wrapper_code.header.writeline(f"from {__name__} import fold_later, fold_now")
    for node, (fold, following) in zip(nodes, pairwise([*folds, None]), strict=True):
        if fold is not None:
            together = following is not None and not fold.scratch and not following.scratch
            name = fold_later.__name__ if together else fold_now.__name__
            node.node.set_python_kernel_name(name)  # type: ignore[union-attr]


def _whole(release: Release | None) -> Release | None:
    """Returns `release`; None if it folds only a block of a gradient's rows."""
    return None if release is None or release.in_block else release


def may_be_overwritten(graph: GraphLowering) -> None:
    """Lets kernels overwrite buffers that were computed from a parameter whose fold has yet to run.

    Inductor counts a fold as a weak reader of all buffers that were computed from the parameter.
    That is, the fold reads none of them, but has to run after their makers, which read the
    parameter. The planned order keeps to that by itself. But a weak reader that has not run yet
    would keep other kernels from writing their results over such a buffer. So folds are removed
    from the readers.

    Args:
        graph: the graph whose order is planned next: its nodes are fused.
    """
    for buffer in graph.scheduler.name_to_buf.values():
        buffer.users = [u for u in buffer.users if not (u.is_weak and _is_fold(u.node))]


def _is_fold(node: object) -> bool:
    if not isinstance(node, BaseSchedulerNode):
        return False
    return release_of(node) is not None or bool(folded_in(node))


def lower_folds(gm: fx.GraphModule) -> None:
    """Replaces each fold of a gradient by an op that Inductor can compile.

    This op is `roam::fold`, or `roam::fold_rows` for the fold of a block of rows. Puts the new ops
    at the end of the graph.
    """
    graph = gm.graph
    # by key of a storage (`storage_key`): the graph inputs that lie in the storage
    inputs: dict[int, list[fx.Node]] = {}
    for node in graph.find_nodes(op="placeholder"):
        if isinstance(value(node), Tensor):
            inputs.setdefault(storage_key(value(node)), []).append(node)
    for node in [n for n in graph.nodes if META in n.meta]:
        release = node.meta[META]
        shown = inputs.get(storage_key(release.parameter), [])
        seen = list(shown) if release.writes_parameter else []
        with graph.inserting_before(graph.output_node()):
            if release.in_block:
                _, index, gradient, start = node.args
                fold = graph.call_function(FOLD_ROWS, (seen, gradient, index, start))
            else:
                fold = graph.call_function(FOLD, (seen, node.args[2], release.index))
        fold.meta = dict(node.meta)
        graph.erase_node(node)
    gm.recompile()
