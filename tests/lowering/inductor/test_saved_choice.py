"""What may run again in the backward, and in which place, when a budget asks for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._inductor import inductor_prims
from torch._inductor.virtualized import V
from torch.fx.experimental.proxy_tensor import make_fx

from roam.core.errors import UnplannableError
from roam.lowering.inductor.block_order import _run_again
from roam.lowering.inductor.partition import Partitioner, named
from roam.lowering.inductor.saved_choice import is_extern, runs_only_once

aten = torch.ops.aten


def nodes(function: Any, *given: Tensor) -> dict[Any, fx.Node]:
    graph = make_fx(function)(*given).graph
    return {n.target: n for n in graph.nodes if n.op == "call_function"}


def test_random_ops_run_once_but_not_those_that_read_a_seed() -> None:
    def drawn(x: Tensor) -> Tensor:
        seeds = inductor_prims.seeds(1, x.device)
        mask = inductor_prims.random([4], inductor_prims.lookup_seed(seeds, 0), "rand")
        return x * mask + torch.rand_like(x)

    found = nodes(drawn, torch.ones(4))
    assert runs_only_once(found[inductor_prims.seeds])
    assert runs_only_once(found[aten.rand_like.default])
    assert not runs_only_once(found[inductor_prims.random])
    assert not runs_only_once(found[aten.mul.Tensor])


def test_what_writes_or_has_a_mark_of_the_user_runs_once() -> None:
    found = nodes(lambda x: x.clone().add_(1) * 2, torch.ones(4))
    assert runs_only_once(found[aten.add_.Tensor])
    marked = found[aten.mul.Tensor]
    assert not runs_only_once(marked)
    marked.meta["recompute"] = True
    assert runs_only_once(marked)


def test_products_are_kernels_of_their_own() -> None:
    found = nodes(lambda x: (x @ x).relu().sum(0).view(2, 2), torch.ones(4, 4))
    assert [t for t, n in found.items() if is_extern(n)] == [aten.mm.default]


def test_what_runs_again_waits_for_the_layer_before() -> None:
    """So nothing is fused of two layers' copies."""

    def node(name: str, reads: list[str], ancestors: set[str]) -> Any:
        deps = [SimpleNamespace(name=r) for r in reads]
        reading = SimpleNamespace(reads=deps)
        return SimpleNamespace(get_name=lambda: name, read_writes=reading, ancestors=ancestors)

    given = [
        node("copy1", ["primals_1"], set()),
        node("late1", ["tangents_1", "buf1"], {"copy1"}),
        node("copy2", ["primals_1"], set()),
        node("late2", ["buf2", "buf3"], {"copy1", "late1", "copy2"}),
    ]
    graph: Any = SimpleNamespace(graph_inputs={"primals_1": None, "tangents_1": None})
    with V.set_graph_handler(graph):
        pairs = [(a.get_name(), b.get_name()) for a, b in _run_again(given)]
    assert pairs == [("copy2", "late1")]


def test_names_of_another_graph_are_refused() -> None:
    graph = make_fx(lambda x: x.sin().cos())(torch.ones(2)).graph
    assert [n.name for n in named(graph, ("cos", "sin"))] == ["sin", "cos"]
    with pytest.raises(UnplannableError, match="has no tan"):
        named(graph, ("sin", "tan"))


def test_the_key_of_the_caches_has_what_is_saved() -> None:
    one, other = (Partitioner(None, None, saved) for saved in (("a",), ("b",)))
    assert one.uuid() == Partitioner(None, None, ("a",)).uuid()
    assert one.uuid() != other.uuid()
