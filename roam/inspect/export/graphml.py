"""Exports the precedence graph of a plan as GraphML, which networkx, yEd and Gephi read."""

from __future__ import annotations

import io

from roam.core.lifetime import live_curve
from roam.core.plan import Plan
from roam.core.problem import Problem


def to_graphml(problem: Problem, plan: Plan) -> bytes:
    """Returns the GraphML. A node is an op, an edge means that one op has to wait for another.

    Nodes have the op's module, phase, time in the plan, and the live bytes at that time. Edges
    have the bytes that the first op makes and the second reads.
    """
    import networkx

    graph = problem.to_networkx()
    live = live_curve(problem, plan.order, plan.reuse)
    for t, i in enumerate(plan.order):
        op = problem.ops[i]
        node = graph.nodes[op.name]
        node.clear()
        node.update(module=op.where, phase=op.phase, time=t, live=live[t], scratch=op.scratch)
    file = io.BytesIO()
    networkx.write_graphml_xml(graph, file)
    return file.getvalue()
