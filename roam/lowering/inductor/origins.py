"""Finds the FX nodes from which Inductor made a scheduler node, and facts recorded in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._inductor import ir
from torch._inductor.scheduler import BaseSchedulerNode

from roam.capture.node_facts import runs_once
from roam.lowering.inductor.graph_folds import FOLDED, Folded
from roam.passes import gradient_release
from roam.passes.gradient_release import Release
from roam.passes.graph_ops import module_path
from roam.passes.rewrites.split import META, Label


def origin(kernel: Any) -> fx.Node | None:
    """Returns the FX node that an extern kernel was made from: the call of its operator.

    Returns None if it is unknown.
    """
    called = getattr(kernel, "op_overload", None)
    found = getattr(kernel, "origin_node", None)
    made_from = getattr(kernel, "origins", ())
    return found or next((n for n in made_from if n.target is called), None)


def release_of(node: BaseSchedulerNode) -> Release | None:
    """Returns the `Release` of a node: the gradient that it folds into an optimizer, or None."""
    called = origin(node.node) if node.is_extern() else None
    return None if called is None else called.meta.get(gradient_release.META)


def folded_in(node: BaseSchedulerNode) -> list[Folded]:
    """Returns the folds that a kernel carries out, wholly or in part.

    A kernel carries out part of a fold if it writes the parameter or a state. Folds that are calls
    of an optimizer do not count, only those that are operators of the graph (`graph_folds`).
    """
    writes = (n for n in sources(node) if n.target is torch.ops.aten.copy_.default)
    return list(dict.fromkeys(n.meta[FOLDED] for n in writes if FOLDED in n.meta))


def must_run_once(node: BaseSchedulerNode) -> bool:
    """Returns whether a kernel must not be recomputed.

    Such a kernel has side effects, draws random numbers, or communicates with other ranks. A kernel
    that Inductor generated may be recomputed even if it is random: it reads its seed from a buffer,
    and so draws the same numbers again.
    """
    if isinstance(node.node, ir.MultiOutput):
        return False  # a MultiOutput only takes one result out of a tuple
    called = origin(node.node) if node.is_extern() else None
    return node.has_side_effects() if called is None else runs_once(called)


def sources(node: BaseSchedulerNode) -> list[fx.Node]:
    """Returns the FX nodes from which Inductor made a scheduler node and what is fused in it."""
    found = (n for part in node.get_nodes() for n in getattr(part.node, "origins", ()))
    return list(dict.fromkeys(n for n in found if isinstance(n, fx.Node)))


def module_of(node: BaseSchedulerNode) -> str:
    """Returns the path of the module that a node belongs to; "" if unknown.

    A fused node belongs to the module of the first of its FX nodes that has one.
    """
    return next(filter(None, map(module_path, sources(node))), "")


def block_of(node: BaseSchedulerNode) -> Label | None:
    """Returns the label (group, block) of a node; None if it belongs to no block or to several.

    A rewrite runs some groups of ops in blocks of rows, one block after the other. The group is a
    number, or a name if a gradient is folded in blocks. The block is a number from 0.
    """
    labels = {n.meta[META] for n in sources(node) if META in n.meta}
    return next(iter(labels)) if len(labels) == 1 else None
