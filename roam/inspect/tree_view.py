"""Prints the tree of segments of a plan (`solvers/order/tree.py`).

    step: 9 ops, 0 B → 1.00 MiB, peak 6.00 MiB, bound 6.00 MiB, program / valleys
    ├── forward: 4 ops, 0 B → 3.00 MiB, peak 6.00 MiB, bound 6.00 MiB, program
    │   ├── forward 1: 2 ops, ..., mirror backward 2
    │   └── forward 2: 2 ops, ..., as forward 1, mirror backward 1
    └── backward: ...

A plan's file does not carry the tree: key points are local minima of the order's live bytes, so the
tree follows from the problem and the plan, and a file that stated another one would be wrong. Only
the search that ordered each segment is not known from that. The plan's method names the searches of
each phase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.sizes import show_size

if TYPE_CHECKING:
    import networkx
    from rich.tree import Tree

    from roam.solvers.order.tree import Node

SECONDS = 2.0  # of work for the bounds of all segments: a person waits for them
LEVELS = 2  # printed unless another number is asked for: phases, and the segments within
FIRST, LAST = 12, 6  # parts of a node that are printed if not all are


def plan_tree(problem: Problem, plan: Plan, depth: int | None = None) -> networkx.DiGraph:
    """Returns the tree of a plan.

    Args:
        problem: the edited one.
        plan: one of `problem`, without edits.
        depth: the number of levels below the step; no limit if left out.
    """
    from math import inf

    from roam.solvers.order.segment import Segment
    from roam.solvers.order.tree import STEP, tree  # brings in ortools
    from roam.solvers.work import Work

    orders, _, _ = plan.method.partition(", ")
    solvers = orders.split(" / ")
    segments = []
    if len(solvers) == len(problem.phases):
        segments = [
            Segment(phase, tuple(plan.order[t] for t in times), solver)
            for phase, (times, solver) in enumerate(zip(problem.spans, solvers, strict=True))
        ]
    found = tree(
        problem,
        plan.order,
        segments,
        bound=plan.lower_bound,
        depth=inf if depth is None else depth,
        work=Work.worth(SECONDS),
    )
    found.nodes[STEP]["solver"] = orders
    return found


def show_tree(problem: Problem, plan: Plan, depth: int | None = None) -> Tree:
    """Returns the tree of a plan as text to print.

    Args:
        problem: the edited one.
        plan: one of `problem`, without edits.
        depth: prints so many levels below the step in full. LEVELS levels, of which long ones are
            abbreviated, if left out.
    """
    from rich.text import Text
    from rich.tree import Tree

    graph = plan_tree(problem, plan, depth or LEVELS)
    shown = Tree(Text(_label(graph, (), problem.name)))
    branches: dict[Node, Tree] = {(): shown}
    for node in _printed(graph, (), abbreviated=depth is None):
        parent = branches[node[:-1]]
        if node[-1] < 0:
            parent.add(Text(f"... {-node[-1]} more: --depth {len(node)} prints all"))
        else:
            name = node_name(node, len(problem.phases))
            branches[node] = parent.add(Text(_label(graph, node, name)))
    return shown


def node_name(node: Node, phases: int) -> str:
    """Returns the name of a phase or segment: "backward", "backward 3", "backward 3.1"."""
    phase, *inner = node
    names = ("forward", "backward") if phases == 2 else ()
    name = names[phase] if names else f"phase {phase}"
    return " ".join([name, *([".".join(str(k + 1) for k in inner)] if inner else [])])


def _printed(graph: networkx.DiGraph, node: Node, *, abbreviated: bool) -> list[Node]:
    """Returns the nodes below a node that are printed. A last index of -n stands for n nodes."""
    parts = sorted(graph.successors(node))
    if abbreviated and len(parts) > FIRST + LAST + 1:
        hidden = len(parts) - FIRST - LAST
        parts = [*parts[:FIRST], (*node, -hidden), *parts[-LAST:]]
    found: list[Node] = []
    for part in parts:
        found.append(part)
        if part[-1] >= 0:
            found += _printed(graph, part, abbreviated=abbreviated)
    return found


def _label(graph: networkx.DiGraph, node: Node, name: str) -> str:
    """Returns the line of a node."""
    found: dict[str, Any] = graph.nodes[node]
    phases = graph.out_degree(())
    ops = len(found["ops"])
    words = [f"{ops:,} op{'' if ops == 1 else 's'}"]
    words.append(f"{show_size(found['entry'])} → {show_size(found['exit'])}")
    words.append(f"peak {show_size(found['peak'])}")
    words.append(f"bound {show_size(found['bound'])}")
    if found["like"] is not None:
        words.append(f"as {node_name(found['like'], phases)}")
    elif found["solver"]:
        words.append(found["solver"])
    if found["mirror"] is not None:
        words.append(f"mirror {node_name(found['mirror'], phases)}")
    return f"{name}: {', '.join(words)}"
