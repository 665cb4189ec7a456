"""Reads graphs of ops from networkx's node-link JSON, as published with recomputation planners.

nodes    "id" or "name"; bytes "cost_ram" or "out_cost"; time "cost_cpu" or "duration"
links    "source" and "target", or "0" and "1": the target reads what the source makes
graph    "order": the given order of the nodes; without it a topological order by node number
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path
from typing import Any

from roam.core.errors import CycleError, FileFormatError, MissingCostError
from roam.core.problem import Buffer, Op, Problem

Node = Any
SIZE_NAMES, TIME_NAMES = ("cost_ram", "out_cost"), ("cost_cpu", "duration")


@dataclass(frozen=True)
class NodeLinkGraph:
    """Ops with one result each, as a file gives them.

    Attributes:
        name: the name of the file.
        order: the node ids in the given order.
        sizes: by node id, bytes of the result.
        times: by node id, what one run costs, in the unit of the file.
        reads: by node id, the nodes whose results it reads.
    """

    name: str
    order: tuple[Node, ...]
    sizes: dict[Node, int]
    times: dict[Node, float]
    reads: dict[Node, tuple[Node, ...]]

    def problem(self) -> Problem:
        """Returns the graph as a Problem; op i is the node order[i], and makes buffer i."""
        place = {node: i for i, node in enumerate(self.order)}
        return Problem(
            self.name,
            tuple(Buffer(f"b{node}", self.sizes[node]) for node in self.order),
            tuple(
                Op(
                    f"n{node}",
                    tuple(sorted(place[r] for r in self.reads[node])),
                    (place[node],),
                    cost=self.times[node],
                )
                for node in self.order
            ),
        )


def read_node_link(path: Path, *, timed: bool = True) -> NodeLinkGraph:
    """Reads a graph.

    Args:
        path: the file.
        timed: whether nodes need a time. If not, all times are 0.

    Raises:
        FileFormatError: the file is no graph in node-link JSON, or its order is none of the graph.
        MissingCostError: a node has no bytes or no time.
        CycleError: nodes read one another.
    """
    try:
        found = json.loads(path.read_text())
        nodes = {_id(node): node for node in found["nodes"]}
        links = found["links"] if "links" in found else found["edges"]
        ends = [(e["source"], e["target"]) if "source" in e else (e["0"], e["1"]) for e in links]
        given = found.get("graph", {}).get("order")
        if len(nodes) != len(found["nodes"]):
            raise ValueError("two nodes have the same id")
        reads: dict[Node, dict[Node, None]] = {node: {} for node in nodes}
        for source, target in ends:
            if source not in nodes:
                raise KeyError(source)
            reads[target][source] = None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is no graph in node-link JSON: {error!r}") from None
    sizes = {node: ceil(_number(path, node, about, SIZE_NAMES)) for node, about in nodes.items()}
    times = dict.fromkeys(nodes, 0.0)
    if timed:
        times = {node: _number(path, node, about, TIME_NAMES) for node, about in nodes.items()}
    frozen = {node: tuple(sources) for node, sources in reads.items()}
    order = _sorted(path, frozen)
    if given is not None:
        _check_order(path, given, frozen)
        order = list(given)
    return NodeLinkGraph(path.stem, tuple(order), sizes, times, frozen)


def _id(node: dict[str, Any]) -> Node:
    return node["id"] if "id" in node else node["name"]


def _number(path: Path, node: Node, about: dict[str, Any], names: tuple[str, ...]) -> float:
    """Returns the attribute of a node that goes by one of two names."""
    value = next((about[name] for name in names if name in about), None)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or not number or not isfinite(value) or value < 0:
        wanted = " or ".join(map(repr, names))
        raise MissingCostError(
            f"{path} is no graph with costs: node {node!r} needs a number of at least 0 as "
            f"{wanted}, and has {value!r}"
        )
    return float(value)


def _sorted(path: Path, reads: dict[Node, tuple[Node, ...]]) -> list[Node]:
    """Returns the topological order that always runs the first ready node of the file next."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(reads)
    graph.add_edges_from((source, node) for node, sources in reads.items() for source in sources)
    place = {node: i for i, node in enumerate(reads)}
    try:
        return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
    except nx.NetworkXUnfeasible:
        cycle = [source for source, _ in nx.find_cycle(graph)]
        raise CycleError(
            f"{path}: the nodes {', '.join(map(repr, cycle))} wait for one another: remove an edge "
            "of this cycle"
        ) from None


def _check_order(path: Path, order: Any, reads: dict[Node, tuple[Node, ...]]) -> None:
    """Raises FileFormatError if an order does not run every node once, behind what it reads."""
    seen: set[Node] = set()
    for node in order if isinstance(order, list) else ():
        if node not in reads or node in seen or any(r not in seen for r in reads[node]):
            raise FileFormatError(f"{path}: its order cannot run node {node!r} where it stands")
        seen.add(node)
    if len(seen) != len(reads):
        raise FileFormatError(f"{path}: its order runs {len(seen)} of {len(reads)} nodes")
