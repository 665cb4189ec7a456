"""Folds of gradients as ops of Inductor's backward.

    mm ── buf7 ── roam::fold([primals_3], buf7, 3) ── del buf7

The op declares that it changes the graph's inputs that are views of the parameter, so that Inductor
runs it after all of their readers. Which optimizer absorbs the gradient is known at run time, from
the ticket of the forward that ran. In the FX graph all folds are at the end, so that they break no
pattern that Inductor matches; the planner decides when they run. Folds that it puts side by side
become one call of the optimizer:

    fold_later([primals_3], buf7, 3)       keeps the gradient
    fold_now([primals_5], buf9, 5)         absorbs both gradients

A backward is compiled when it first runs, once for each set of parameters whose gradients it folds,
and for each kind of fold.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, fx
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode

from roam.lowering.inductor.origins import release_of
from roam.passes.geometry import storage_key, value
from roam.passes.gradient_release import META

log = logging.getLogger("roam")

Gradients = list[tuple[int, Tensor]]  # each with the index of the input that it belongs to

_library = torch.library.Library("roam", "FRAGMENT")
_library.define(
    "fold(Tensor(a!)[] parameter, Tensor gradient, int index) -> ()",
    tags=(torch.Tag.flexible_layout,),
)
FOLD = torch.ops.roam.fold.default
_running = threading.local()


def fold_later(parameter: Sequence[Tensor], gradient: Tensor, index: int) -> None:
    """Keeps a gradient for the next op, which is a fold too and absorbs both."""
    _running.waiting.append((index, gradient))


def fold_now(parameter: Sequence[Tensor], gradient: Tensor, index: int) -> None:
    gradients, _running.waiting = [*_running.waiting, (index, gradient)], []
    _running.absorb(gradients)


_library.impl("fold", fold_now, "CompositeExplicitAutograd")
_library.impl("fold", lambda *_: None, "Meta")  # tracing a graph folds nothing


@contextmanager
def absorbing(absorb: Callable[[Gradients], None]) -> Iterator[None]:
    """A context in which the folds that this thread runs pass their gradients to `absorb`."""
    before = getattr(_running, "absorb", None), getattr(_running, "waiting", None)
    _running.absorb, _running.waiting = absorb, []
    try:
        yield
    finally:
        _running.absorb, _running.waiting = before


def call_together(graph: GraphLowering, nodes: Sequence[BaseSchedulerNode]) -> None:
    """Makes the generated Python code call `fold_later` and `fold_now` instead of the op.

    Neighbouring folds are absorbed by one `fold_now`. A fold with scratch space is called alone,
    because its plan counts on the other gradients being freed.
    """
    folds = [release_of(node) for node in nodes]
    if graph.cpp_wrapper or not any(folds):
        return
    graph.wrapper_code.header.writeline(f"from {__name__} import fold_later, fold_now")
    for node, (fold, following) in zip(nodes, pairwise([*folds, None]), strict=True):
        if fold is not None:
            together = following is not None and not fold.scratch and not following.scratch
            name = fold_later.__name__ if together else fold_now.__name__
            node.node.set_python_kernel_name(name)  # type: ignore[union-attr]


def lower_folds(gm: fx.GraphModule) -> None:
    """Replaces the folds of a graph by the op that Inductor knows, at the end of the graph."""
    graph = gm.graph
    inputs: dict[int, list[fx.Node]] = {}  # by storage
    for node in graph.find_nodes(op="placeholder"):
        if isinstance(value(node), Tensor):
            inputs.setdefault(storage_key(value(node)), []).append(node)
    for node in [n for n in graph.nodes if META in n.meta]:
        release = node.meta[META]
        shown = inputs.get(storage_key(release.parameter), [])
        seen = list(shown) if release.writes_parameter else []
        with graph.inserting_before(graph.output_node()):
            fold = graph.call_function(FOLD, (seen, node.args[2], release.index))
        fold.meta = dict(node.meta)
        graph.erase_node(node)
    gm.recompile()
