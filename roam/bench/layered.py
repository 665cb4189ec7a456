"""Makes wide, irregular graphs: random layered ones.

    level 0      1        2               n          between neighbouring levels, a tenth or a
     o ──────┬── o ──┬─── o ── ... ────── o          fifth of all possible edges, at least one in
             ├── o ──┴─┬─ o                          and one out of each node; some edges skip
             └── o ────┴─ o                          levels

The family is that of Appendix A of *Neural Topological Ordering for Computation Graphs* (arXiv
2207.05899). The graphs published with MOCCASIN (arXiv 2304.14463) have its parameters in their
names; their levels, edges and skips were counted to find out what the parameters mean. Sizes are
drawn from two normal distributions. The given order is random.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import networkx as nx

from roam.core.node_link import Node, NodeLinkGraph
from roam.core.problem import Problem

SIZES = ((100, 60), (300, 130))  # mean and standard deviation, in units of ten bytes
SKIP = 3.0  # the mean number of levels that an edge skips beyond the first


def layered_graph(
    nodes: int,
    *,
    width: float = 0.43,
    levels: float = 0.75,
    density: float = 0.2,
    skips: float = 0.14,
    seed: int = 0,
) -> Problem:
    """Draws a random layered graph whose ops make one buffer each. A seed gives one graph.

    Args:
        nodes: about how many ops.
        width: there are about nodes ** (1 - width) levels.
        levels: the least share of that number of levels that is drawn.
        density: the share of possible edges between neighbouring levels.
        skips: the share of all edges that skip a level or more.
    """
    draw = random.Random(seed)
    count = max(3, round(nodes ** (1 - width) * draw.uniform(levels, 1)))
    shares = [draw.uniform(0.1, 1) for _ in range(count)]
    widths = [1, *(max(1, round((nodes - 2) * s / sum(shares))) for s in shares), 1]
    starts = [sum(widths[:i]) for i in range(len(widths) + 1)]
    members = [range(a, b) for a, b in pairwise(starts)]
    edges: set[tuple[int, int]] = set()
    for above, below in pairwise(members):
        found = {(a, b) for a in above for b in below if draw.random() < density}
        found |= {(draw.choice(above), b) for b in below if all(b != e[1] for e in found)}
        found |= {(a, draw.choice(below)) for a in above if all(a != e[0] for e in found)}
        edges |= found
    wanted = round(len(edges) / (1 - skips))
    while len(edges) < wanted:
        level = draw.randrange(1, count)
        far = level + 2 + int(draw.expovariate(1 / SKIP))
        if far < len(members):
            edges.add((draw.choice(members[level]), draw.choice(members[far])))
    sizes = [10 * max(1, round(draw.gauss(*draw.choice(SIZES)))) for _ in range(starts[-1])]
    order = _random_order(starts[-1], edges, draw)
    reads: dict[Node, tuple[Node, ...]] = dict.fromkeys(order, ())
    for source, target in edges:
        reads[target] += (source,)
    name, times = f"layered {nodes}, {seed}", dict.fromkeys(order, 0.0)
    return NodeLinkGraph(name, tuple(order), dict(enumerate(sizes)), times, reads).problem()


def _random_order(nodes: int, edges: Iterable[tuple[int, int]], draw: random.Random) -> list[int]:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(sorted(edges))
    rank = [draw.random() for _ in range(nodes)]
    return list(nx.lexicographical_topological_sort(graph, key=rank.__getitem__))
