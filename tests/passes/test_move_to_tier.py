"""Transfers in a joint graph: where they stand, who reads what comes back, and the bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

from roam.passes.move_to_tier import AFTER, META, Move, MoveToTier
from roam.passes.pipeline import run
from roam.runtime import transfer_ops as transfer_ops
from roam.runtime.file_tier import forget
from tests.passes.graphs import printed, same_bits, trace
from tests.runtime.faults import on_disk

X = torch.randn(32, 32)


def step(x: Tensor) -> tuple[Tensor, ...]:
    """The backward reads h, a view of it, and the second result of a max."""
    h = x.sin()
    turned = h.t()
    top, where = x.max(1)
    loss = h.sum() + top.sum()
    late = loss.cos()
    first = turned.exp() * late
    return loss, first + h, where.neg()


def joint() -> fx.GraphModule:
    module = trace(step, X)
    names = [n.name for n in module.graph.nodes]
    for node in module.graph.nodes:
        late = names.index(node.name) >= names.index("cos")
        node.meta["partitioner_tag"] = "is_backward" if late else "is_forward"
    return module


def moved(folder: str, *, late: bool = False) -> fx.GraphModule:
    module = joint()
    nodes = {n.name: n for n in module.graph.nodes}
    behind = nodes["cos"] if late else nodes["max_1"]
    moves = (
        Move(nodes["sin"], 0, nodes["max_1"], behind, nodes["exp"], nodes["cos"]),
        Move(nodes["getitem_1"], 4096, None, None, nodes["mul"], None),
    )
    run((MoveToTier(moves, folder, 8192),), module)
    return module


def test_where_the_transfers_stand() -> None:
    assert printed(moved("/tier")).splitlines() == [
        "sin = sin(x_1)",
        "slots = open_slots(/tier, 8192)",
        "sin_write_start = write_start(sin, slots, 0, sin)",
        "t = t(sin)",
        "max_1 = max(x_1, 1)",
        "sin_write_wait = write_wait(sin, sin_write_start)",
        "getitem = getitem(max_1, 0)",
        "getitem_1 = getitem(max_1, 1)",
        "getitem_1_write_start = write_start(getitem_1, slots, 4096, getitem_1)",
        "sum_1 = sum(sin)",
        "sum_2 = sum(getitem)",
        "add = add(sum_1, sum_2)",
        "getitem_1_write_wait = write_wait(getitem_1, getitem_1_write_start)",
        "cos = cos(add)",
        "sin_read_start = read_start(sin_write_wait, [32, 32], [32, 1], torch.float32)",
        "sin_read_wait = read_wait(sin_read_start, sin_write_wait)",
        "t_1 = t(sin_read_wait)",
        "exp = exp(t_1)",
        "getitem_1_read_start = read_start(getitem_1_write_wait, [32], [1], torch.int64)",
        "mul = mul(exp, cos)",
        "add_1 = add(mul, sin_read_wait)",
        "getitem_1_read_wait = read_wait(getitem_1_read_start, getitem_1_write_wait)",
        "neg = neg(getitem_1_read_wait)",
        "return (add, add_1, neg)",
    ]


def test_the_places_that_a_planner_has_to_keep() -> None:
    module = moved("/tier")
    kept = {n.name: n.meta[AFTER] for n in module.graph.nodes if AFTER in n.meta}
    assert kept == {
        "max_1": ("sin_write_start",),
        "sin_write_wait": ("max_1",),
        "exp": ("sin_read_start",),
        "sin_read_wait": ("cos",),
        "getitem_1_write_wait": (module_end(module),),
        "mul": ("getitem_1_read_start",),
    }
    ops = {n.name: n.meta[META] for n in module.graph.nodes if META in n.meta}
    assert ops["sin_write_start"] == "sin~file~1.start"
    assert ops["sin_read_wait"] == "sin~1.wait"


def module_end(module: fx.GraphModule) -> str:
    """The last op of the forward that was there before the transfers."""
    early = (n for n in module.graph.nodes if n.meta.get("partitioner_tag") == "is_forward")
    return [n.name for n in early if META not in n.meta][-1]


@pytest.mark.parametrize("late", [False, True], ids=["in the forward", "in the backward"])
def test_what_comes_back_has_the_same_bits(tmp_path: Path, late: bool) -> None:
    module = moved(str(on_disk(tmp_path)), late=late)
    for got, wanted in zip(module(X.clone()), step(X.clone()), strict=True):
        assert same_bits(got, wanted)
    forget()


def test_no_op_of_the_backward_reads_what_left() -> None:
    module = moved("/tier")
    left = {"sin", "t", "getitem_1"}
    for node in module.graph.nodes:
        if node.meta.get("partitioner_tag") == "is_backward":
            assert left.isdisjoint(s.name for s in node.all_input_nodes)
