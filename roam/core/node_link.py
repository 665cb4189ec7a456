"""Reads graphs of ops from networkx's node-link JSON, as published with recomputation planners.

nodes    "id" or "name"; bytes "cost_ram" or "out_cost"; time "cost_cpu" or "duration"
links    "source" and "target", or "0" and "1": the target reads what the source makes
graph    "order": the given order of the nodes; without it a topological order by node number
"""

from __future__ import annotations

import heapq
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


def read_node_link(path: Path) -> NodeLinkGraph:
    """Reads a graph.

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
            f"{path}: node {node!r} needs a number of at least 0 as {wanted}, and has {value!r}"
        )
    return float(value)


def _sorted(path: Path, reads: dict[Node, tuple[Node, ...]]) -> list[Node]:
    """Returns the topological order that always runs the first ready node of the file next."""
    nodes = list(reads)
    place = {node: i for i, node in enumerate(nodes)}
    waiting = {node: len(sources) for node, sources in reads.items()}
    readers: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node, sources in reads.items():
        for source in sources:
            readers[source].append(node)
    ready = [place[node] for node, n in waiting.items() if n == 0]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        order.append(node)
        for reader in readers[node]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, place[reader])
    if len(order) < len(nodes):
        stuck = [node for node, n in waiting.items() if n]
        raise CycleError(
            f"{path}: nodes wait for one another, among them {', '.join(map(repr, stuck[:5]))}: "
            f"remove an edge of the cycle"
        )
    return order


def _check_order(path: Path, order: Any, reads: dict[Node, tuple[Node, ...]]) -> None:
    """Raises FileFormatError if an order does not run every node once, behind what it reads."""
    seen: set[Node] = set()
    for node in order if isinstance(order, list) else ():
        if node not in reads or node in seen or any(r not in seen for r in reads[node]):
            raise FileFormatError(f"{path}: its order cannot run node {node!r} where it stands")
        seen.add(node)
    if len(seen) != len(reads):
        raise FileFormatError(f"{path}: its order runs {len(seen)} of {len(reads)} nodes")
