"""Finds groups of ops with a large middle, which can run one block of rows after the other.

    x ── mm ──┬── logits ── amax ── ... ── gradient of the logits ──┬── mm ── gradient of x
              │                                                     └── mm ── gradient of W
            large                          large

The search begins with an op whose result is large, the *seed*. The *core* is the seed and the ops
with large results that read a result of the core: those that make the logits, their exponentials,
their gradient. A *group* is the core, the ops on paths between ops of the core, and the ops that
read a large result and make a small one.

A group can be split if the rows of the seed pass through each of its ops (`row_rules`), or are
added up by it (`sum_rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from roam.passes.dependencies import depends_on
from roam.passes.geometry import value
from roam.passes.rewrites.split.row_rules import Cuts, Product
from roam.passes.rewrites.split.rule_table import rule
from roam.passes.rewrites.split.seeds import is_large, known_bytes
from roam.passes.rewrites.split.spans import Span, is_tensor, rows, shape
from roam.passes.rewrites.split.sum_rules import summed

aten = torch.ops.aten


class UnsplittableError(Exception):
    """The ops around a seed cannot run in blocks of rows. The message says why, for the log.

    Attributes:
        node: the op without a rule that fits; None if there are other reasons.
    """

    def __init__(self, why: str, node: fx.Node | None = None) -> None:
        super().__init__(why)
        self.node = node


@dataclass
class Group:
    """Ops that can run in blocks of rows.

    Attributes:
        seed: the op that makes the first large tensor.
        members: the ops, in graph order, with the rows of their results.
        sums: ops behind them that add over the rows, with the rows of their operands.
        results: the members that ops outside use. None of them is large.
    """

    seed: fx.Node
    members: dict[fx.Node, Span]
    sums: dict[fx.Node, Cuts] = field(default_factory=dict)
    results: list[fx.Node] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return rows(shape(self.seed), self.members[self.seed])

    @property
    def per_row(self) -> int:
        """The number of rows of the seed's result that belong to one row of the group."""
        return self.members[self.seed].per_row

    @property
    def large_bytes(self) -> int:
        """Bytes of the largest tensor that exists in blocks only."""
        return max(known_bytes(n) for n in self.members if n not in self.results)

    @property
    def sum_bytes(self) -> int:
        """Bytes of what exists from the first block on: sums over the rows."""
        return sum(known_bytes(n) for n in self.sums)

    @property
    def rounds(self) -> bool:
        """Whether products are added over the rows in a dtype of 16 bits."""
        return any(
            n.target is aten.mm.default and value(n).dtype in (torch.float16, torch.bfloat16)
            for n in self.sums
        )

    @property
    def inputs(self) -> list[fx.Node]:
        """The ops outside whose results the group uses."""
        inside = self.members.keys() | self.sums.keys()
        found = (o for n in (*self.members, *self.sums) for o in n.all_input_nodes)
        return list(dict.fromkeys(o for o in found if o not in inside))


def grow(
    seed: fx.Node,
    span: Span,
    allowed: Callable[[fx.Node], bool],
    given: Collection[fx.Node] = (),
) -> Group:
    """Returns the group around a seed.

    Args:
        seed: the op that makes the first large tensor.
        span: the rows of its result.
        allowed: whether an op may belong to the group.
        given: ops that count as known beforehand, though they may depend on the group.

    Raises:
        UnsplittableError: the rows of the seed do not pass through the group.
    """
    order = {n: i for i, n in enumerate(seed.graph.nodes)}
    spans = reach({seed: span}, allowed)

    def large(node: fx.Node) -> bool:
        return is_large(node, seed)

    core = {seed}
    for node in spans:  # in graph order
        if large(node) and not core.isdisjoint(node.all_input_nodes):
            core.add(node)
    members = core | _between(seed.graph, core, given)
    if mixed := [n for n in members if n not in spans]:
        first = min(mixed, key=order.__getitem__)
        raise UnsplittableError(
            f"{first.name} ({first.target}) mixes rows, and the group needs it", first
        )
    found = Group(seed, {n: spans[n] for n in members})
    found.members |= _pulled_in(found, large)
    for node in sorted(found.members, key=order.__getitem__):
        for user in node.users:
            if user in found.members or user in found.sums:
                continue
            if user in spans and large(node) and not large(user):
                found.members[user] = spans[user]
            elif allowed(user) and (cuts := _summed(user, node, found.members)) is not None:
                found.sums[user] = cuts
            elif large(node):
                raise UnsplittableError(
                    f"{user.name} ({user.target}) needs {node.name} whole", user
                )
    inside = found.members.keys() | found.sums.keys()
    found.members = dict(sorted(found.members.items(), key=lambda item: order[item[0]]))
    found.results = [n for n in found.members if not inside.issuperset(n.users)]
    if whole := [n.name for n in found.results if large(n)]:
        raise UnsplittableError(f"{whole[0]} is needed whole")
    if not _is_convex(seed.graph, inside, given):
        raise UnsplittableError("an op outside waits for the group and is awaited by it")
    return found


def reach(
    starts: Mapping[fx.Node, Span], allowed: Callable[[fx.Node], bool]
) -> dict[fx.Node, Span]:
    """Returns where the rows of some ops are in every op that they reach, in graph order.

    Args:
        starts: the ops, and the rows of their results.
        allowed: whether an op further on may be reached.
    """
    spans: dict[fx.Node, Span] = {}
    for node in next(iter(starts)).graph.nodes:
        if node in starts:
            spans[node] = starts[node]
            continue
        inside = [o for o in node.all_input_nodes if o in spans]
        its = rule(node) if inside and allowed(node) else None
        if its is None:
            continue
        found = {its.result(node, o, spans[o]) for o in inside}
        (there,) = found if len(found) == 1 else (None,)
        cuts = None if there is None else its.operands(node, there)
        if there is not None and cuts is not None and all(cuts.get(o) == spans[o] for o in inside):
            spans[node] = there
    return spans


def _between(graph: fx.Graph, core: set[fx.Node], given: Collection[fx.Node]) -> set[fx.Node]:
    """Returns the ops on paths between ops of the core, other than paths through `given`."""
    behind = {u for n in core for u in n.users}
    before: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node not in given and any(u in core or u in before for u in node.users):
            before.add(node)
    return depends_on(graph, behind, given) & before


def _summed(user: fx.Node, node: fx.Node, members: Mapping[fx.Node, Span]) -> Cuts | None:
    """Returns how an op adds over the rows of a member; None if it does not."""
    cuts = summed(user, node, members[node])
    if cuts is None:
        return None
    fits = all(members[o] == cuts.get(o) for o in user.all_input_nodes if o in members)
    return cuts if fits and all(is_tensor(o) for o in cuts) else None


def _pulled_in(group: Group, large: Callable[[fx.Node], bool]) -> dict[fx.Node, Span]:
    """Returns large operands that only the group needs, such as one-hot labels, and their rows.

    They are found from the group backwards, so they may not depend on the seed. What the seed
    reads, and products, stay outside: what is behind them is another layer.
    """
    found: dict[fx.Node, Span] = {}
    waiting = [(n, span) for n, span in group.members.items() if n is not group.seed]
    while waiting:
        node, span = waiting.pop()
        its = rule(node)
        assert its is not None
        if isinstance(its, Product):
            continue
        for operand, there in (its.operands(node, span) or {}).items():
            theirs = rule(operand)
            if operand in group.members or operand in found or theirs is None:
                continue
            if not isinstance(theirs, Product) and theirs.operands(operand, there) is not None:
                found[operand] = there
                waiting.append((operand, there))
    wanted: dict[fx.Node, Span] = {}
    for node in group.seed.graph.nodes:
        if node in found and (large(node) or not wanted.keys().isdisjoint(node.all_input_nodes)):
            wanted[node] = found[node]
    while alone := [n for n in wanted if not _is_private(n, group.members | wanted, large)]:
        for node in alone:
            del wanted[node]
    return wanted


def _is_private(
    node: fx.Node, members: Mapping[fx.Node, Span], large: Callable[[fx.Node], bool]
) -> bool:
    """Returns whether an operand would not exist whole if it belonged to the group.

    A large one must be needed by no op outside. It may need no large one from outside that a kernel
    may now make and use at once, such as random numbers: that would live until the last block.
    """
    needed = (o for o in node.all_input_nodes if large(o) and o not in members)
    if any(o.op != "placeholder" and not isinstance(rule(o), Product) for o in needed):
        return False
    return not large(node) or all(
        u in members or _summed(u, node, members) is not None for u in node.users
    )


def _is_convex(graph: fx.Graph, inside: set[fx.Node], given: Collection[fx.Node]) -> bool:
    """Returns whether no op outside waits for an op of the group and is awaited by another.

    The ops `given` wait for nothing.
    """
    behind: set[fx.Node] = set()
    for node in graph.nodes:
        if node in inside:
            if not behind.isdisjoint(node.all_input_nodes):
                return False
        elif node not in given and any(o in inside or o in behind for o in node.all_input_nodes):
            behind.add(node)
    return True


def is_scalar(node: fx.Node) -> bool:
    found = value(node)
    return isinstance(found, Tensor) and all(s == 1 for s in found.shape)
