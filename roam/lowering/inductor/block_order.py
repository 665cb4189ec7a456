"""Makes the blocks of a split run one after the other, each in as little memory as possible.

A rewrite splits a group of ops, such as those of the logits and the loss, into blocks of rows.

    block 1   mm ── softmax ── ... ── mm          a dependency between the blocks, so that
                                      ┊           no kernel is fused from ops of both, and
    block 2                           mm ── ...   the first block is freed before the second

Without the dependency Inductor would fuse ops of all blocks that read the same tensor, such as the
number of labels that the loss does not ignore. Then the tensors of all blocks would be alive at
once. The dependency only orders the blocks: it keeps no buffer alive.

Under a byte budget, the same pass adds dependencies that keep the recomputed nodes of a backward
from running long before the gradients that need them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from torch._inductor import config, custom_graph_pass
from torch._inductor.dependencies import WeakDep
from torch._inductor.scheduler import BaseSchedulerNode
from torch._inductor.virtualized import V

from roam.lowering.inductor.origins import block_of
from roam.lowering.inductor.readers_first import Pair, readers_first
from roam.lowering.inductor.user_passes import cache_key, users_own

Pass: Any = getattr(custom_graph_pass, "CustomSchedulerPass", object)
OPTION = "_pre_fusion_custom_pass"


def blocks_in_turn(*, late: bool = False) -> dict[str, Any]:
    """Returns the Inductor setting that makes the blocks of a split run one after the other.

    Returns an empty dict if this version of torch has no pass that runs before fusion.

    Args:
        late: whether the pass also makes the recomputed nodes of a backward wait for gradients, so
            that they do not run long before they are needed.
    """
    if not hasattr(config, OPTION):
        return {}
    return {OPTION: BlocksInTurn(users_own(OPTION, BlocksInTurn), late)}


class BlocksInTurn(Pass):  # type: ignore[misc]
    """Adds dependencies to the nodes of a graph, before Inductor fuses them.

    The dependencies order the blocks of each split group. Inside a block they let a gradient
    overwrite the tensor that it is computed from, such as the logits (`readers_first`).

    Attributes:
        first: the user's own pass, which runs before this one; None if there is none.
        late: whether the recomputed nodes of a backward also have to wait for gradients, so that
            they do not run long before they are needed.
    """

    def __init__(self, first: Any, late: bool = False) -> None:
        self.first, self.late = first, late

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        if self.first is not None:
            nodes = self.first(nodes)
        groups = [*_by_group(nodes).values()]
        nodes = _ordered(nodes, [add for group in groups for add in _missing(group)])
        for block in (block for group in groups for block in group.values()):
            for added in readers_first(block):
                nodes = _ordered(nodes, added)
        return _ordered(nodes, [*_run_again(nodes)]) if self.late else nodes

    def uuid(self) -> Any:
        return cache_key(self.first, [__file__], self.late)


def _ordered(nodes: list[BaseSchedulerNode], added: Sequence[Pair]) -> list[BaseSchedulerNode]:
    """Adds dependencies to the nodes, and returns the nodes in an order that respects them.

    Returns `nodes` as they are if `added` is empty.

    added: pairs (node, node that it waits for).
    """
    if not added:
        return nodes
    for node, before in added:
        for buffer in before.get_outputs():
            node.add_fake_dep(WeakDep(buffer.get_name(), node.get_name(), is_fake=True))
    scheduler = V.graph.scheduler
    scheduler.nodes = scheduler.topological_sort_schedule(nodes)
    scheduler.compute_ancestors()
    return scheduler.nodes


def _run_again(nodes: Sequence[BaseSchedulerNode]) -> Iterator[Pair]:
    """Yields dependencies that keep recomputed nodes of a backward from running too early.

    Each is a pair (node, node that it waits for). A recomputed node depends on no tangent, but
    comes in the list `nodes` after a node that does. It has to wait for the nearest node before it
    in the list that depends on a tangent. So it is not fused with nodes that are recomputed for
    another layer: a fused kernel would hold the tensors of both layers. Yields nothing for a
    forward, which has no tangents.
    """
    tangents = {name for name in V.graph.graph_inputs if name.startswith("tangents")}
    late: set[str] = set()
    last: BaseSchedulerNode | None = None
    for node in nodes:
        reads = {dep.name for dep in node.read_writes.reads}
        if tangents & reads or not late.isdisjoint(node.ancestors):
            late.add(node.get_name())
            last = node
        elif last is not None:
            yield node, last


Blocks = dict[int, list[BaseSchedulerNode]]  # of a split group: the nodes of each block, by number


def _by_group(nodes: Sequence[BaseSchedulerNode]) -> dict[int | str, Blocks]:
    found: dict[int | str, Blocks] = defaultdict(lambda: defaultdict(list))
    for node in nodes:
        label = block_of(node)
        if label is not None:
            found[label[0]][label[1]].append(node)
    return found


def _missing(blocks: Blocks) -> Iterator[Pair]:
    """Yields dependencies that make each block wait for the block with the number before its own.

    Each is a pair (node, node that it waits for). The first depends on no other node of its block.
    The second is a node of the previous block, and no other node of that block depends on it. A
    block without a previous block waits for nothing. Yields nothing if a block already depends on a
    later block, through ops that several blocks share: a further dependency could then close a
    cycle.

    blocks: the blocks of one split group.
    """
    names = {k: {n.get_name() for n in nodes} for k, nodes in blocks.items()}
    for k, nodes in blocks.items():
        later = {name for j in names if j > k for name in names[j]}
        if any(not later.isdisjoint(n.ancestors) for n in nodes):
            return
    for k in sorted(blocks):
        if k - 1 not in blocks:
            continue
        waited = {name for n in blocks[k - 1] for name in n.ancestors}
        last = [n for n in blocks[k - 1] if n.get_name() not in waited]
        first = [n for n in blocks[k] if names[k].isdisjoint(n.ancestors)]
        yield from ((node, before) for node in first for before in last)
