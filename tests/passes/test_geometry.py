from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from roam.passes.geometry import (
    fills_its_storage,
    is_equal,
    renew_views,
    same_layout,
    same_shape,
    storage_key,
    tensor_inputs,
    tensors,
    value,
)
from tests.passes.graphs import trace

aten = torch.ops.aten


def symbolic(*tensors: Tensor) -> Any:
    """The fake values of a graph's inputs, every size a symbol of its own."""
    module = make_fx(lambda *xs: [x + 1 for x in xs], tracing_mode="symbolic")(*tensors)
    return [value(n) for n in module.graph.nodes if n.op == "placeholder"]


def test_what_a_node_yields() -> None:
    module = trace(lambda x: torch.topk(x, 2), torch.randn(3, 5))
    x, topk, first, second, output = module.graph.nodes
    assert [t.shape for t in tensors(x)] == [(3, 5)]
    assert [(t.shape, t.dtype) for t in tensors(topk)] == [
        ((3, 2), torch.float32),
        ((3, 2), torch.int64),
    ]
    assert tensors(first) == [value(first)]
    assert tensors(second) == [value(second)]
    assert tensors(output) == []
    assert value(output) is None


def test_inputs_in_lists_are_inputs() -> None:
    module = trace(lambda x, y: torch.cat([x, y, x]), torch.randn(3), torch.randn(4))
    [cat] = module.graph.find_nodes(op="call_function", target=aten.cat.default)
    assert [t.shape for _, t in tensor_inputs(cat)] == [(3,), (4,)]


def test_inputs_that_are_no_tensors_are_left_out() -> None:
    module = trace(lambda x: torch.topk(x, 2)[0], torch.randn(3, 5))
    [getitem] = [n for n in module.graph.nodes if n.name == "getitem"]
    assert list(tensor_inputs(getitem)) == []


def test_views_share_their_memory_in_the_graph_too() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.exp()
        return y.view(2, 6).t()[1:].detach() + y.clone().view(2, 6).t()[1:]

    nodes = {n.name: n for n in trace(fn, torch.randn(3, 4)).graph.nodes}
    key = storage_key(value(nodes["exp"]))
    shared = {n for n, node in nodes.items() if tensors(node) and storage_key(value(node)) == key}
    assert shared == {"exp", "view", "t", "slice_1", "detach"}


def test_what_has_no_storage_shares_nothing() -> None:
    sparse = torch.eye(3).to_sparse()
    assert storage_key(sparse) == storage_key(sparse)
    assert storage_key(sparse) != storage_key(torch.eye(3).to_sparse())
    assert storage_key(sparse) != storage_key(sparse.values())


@pytest.mark.parametrize(
    ("a", "b", "shape", "layout"),
    [
        (torch.empty(3, 4), torch.empty(3, 4), True, True),
        (torch.empty(3, 4), torch.empty(4, 3).t(), True, False),
        (torch.empty(3, 4), torch.empty(3, 4, dtype=torch.int32), True, False),
        (torch.empty(3, 4), torch.empty(3, 4, device="meta"), True, False),
        (torch.empty(3, 4), torch.empty(4, 4)[1:], True, False),
        (torch.empty(3, 4), torch.empty(12), False, False),
        (torch.empty(3, 4), torch.empty(4, 3), False, False),
        (torch.empty(()), torch.empty(1), False, False),
        (torch.ones(3) * 1j, (torch.ones(3) * 1j).conj(), True, False),
        (torch.ones(3), torch._neg_view(torch.ones(3)), True, False),
    ],
)
def test_shapes_and_layouts(a: Tensor, b: Tensor, shape: bool, layout: bool) -> None:
    assert same_shape(a, b) is same_shape(b, a) is shape
    assert same_layout(a, b) is same_layout(b, a) is layout


def test_symbols_are_equal_only_where_that_is_known() -> None:
    a, b = symbolic(torch.empty(3, 4), torch.empty(5, 6))
    assert not isinstance(a.shape[0], int)
    assert is_equal(a.shape[0], a.shape[0])
    assert is_equal(a.shape[0] * 2, a.shape[0] + a.shape[0])
    assert not is_equal(a.shape[0], b.shape[0])
    assert not is_equal(a.shape[0], 3)
    assert same_layout(a, a)
    assert not same_shape(a, b)
    guards = a.shape[0].node.shape_env.guards
    assert guards == []  # comparing has decided nothing


def test_symbolic_tensors_fill_their_storage() -> None:
    a, _ = symbolic(torch.empty(3, 4), torch.empty(5, 6))
    assert fills_its_storage(a)
    assert not fills_its_storage(a[:2])
    assert not fills_its_storage(a.expand(2, *a.shape))


@given(st.data())
def test_filling_means_that_every_byte_is_one_elements(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), max_size=4))
    strides = data.draw(st.tuples(*(st.sampled_from((0, 1, 2, 3, 4, 6, 8, 12)) for _ in shape)))
    offset = data.draw(st.sampled_from((0, 0, 0, 1)))
    places = [
        offset + sum(i * s for i, s in zip(index, strides, strict=True))
        for index in product(*map(range, shape))
    ]
    size = max(places) + 1 + data.draw(st.sampled_from((0, 0, 0, 1)))
    tensor = torch.empty(size).as_strided(shape, strides, offset)
    assert fills_its_storage(tensor) is (sorted(places) == list(range(size)))


@given(st.permutations(range(4)))
def test_a_permuted_tensor_fills_its_storage(order: list[int]) -> None:
    assert fills_its_storage(torch.empty(2, 3, 1, 5).permute(order))


def test_views_are_renewed_after_one_tensor_took_anothers_place() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.exp()
        a, b = torch.split(y.clone().view(2, 6).t(), 3)
        return torch.add(a, b)

    module = trace(fn, torch.randn(3, 4))
    [clone] = module.graph.find_nodes(op="call_function", target=aten.clone.default)
    [exp] = module.graph.find_nodes(op="call_function", target=aten.exp.default)
    clone.replace_all_uses_with(exp)
    module.graph.erase_node(clone)
    renew_views(module.graph)
    [add] = module.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    behind_exp = {n.name for n in module.graph.nodes for t in tensors(n) if shares(t, value(exp))}
    assert behind_exp == {"exp", "view", "t", "split", "getitem", "getitem_1"}
    assert not shares(value(add), value(exp))


def test_views_that_are_right_are_left_alone() -> None:
    module = trace(lambda x: x.exp().view(-1).detach() + 1, torch.randn(3, 4))
    before = [value(n) for n in module.graph.nodes]
    renew_views(module.graph)
    assert all(a is b for a, b in zip(before, map(value, module.graph.nodes), strict=True))


def shares(a: Tensor, b: Tensor) -> bool:
    return storage_key(a) == storage_key(b)
