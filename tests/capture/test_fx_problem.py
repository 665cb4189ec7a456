"""What the graphs of a step say, and what the Problem says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import roam
from roam.capture.fx_problem import Captured, capture
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import UnplannableError
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.core.text import problem_to_text
from roam.passes.annotations.inplace import InPlace
from roam.passes.annotations.out_variants import OutVariants
from roam.passes.pipeline import run
from tests.helpers import unfused
from tests.passes.graphs import trace

GOLDEN = Path(__file__).parents[1] / "golden" / "mlp_step.txt"
UPDATE = "ROAM_UPDATE_GOLDEN"  # set it to write the golden file anew; CI refuses to


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    roam.reset_report()
    yield
    torch._dynamo.reset()


def step_of(model: Callable[..., Any], *args: Any) -> Problem:
    """The Problem of a training step, forward and backward, as the backend reads it."""
    unfused(model)(*args)
    [record] = roam.report().graphs
    assert record.problem is not None, record.reason
    return record.problem


def captured(fn: Callable[..., Any], *args: Any) -> Captured:
    """The Problem of a forward alone."""
    module = trace(fn, *args)
    run((OutVariants(), InPlace()), module)
    return capture("p", module.graph, None, Numbers())


def named(things: tuple[Any, ...]) -> dict[str, Any]:
    return {thing.name: thing for thing in things}


def buffers(problem: Problem) -> dict[str, Buffer]:
    return named(problem.buffers)


def ops(problem: Problem) -> dict[str, Op]:
    return named(problem.ops)


def names(problem: Problem, ids: tuple[int, ...]) -> list[str]:
    return [problem.buffers[b].name for b in ids]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.up(x)))
        return y


def test_golden_mlp_step() -> None:
    text = problem_to_text(replace(step_of(Mlp(), torch.ones(32, 8)), name="mlp_step"))
    if os.environ.get(UPDATE):
        assert not os.environ.get("CI"), f"{UPDATE} in CI: golden files are updated by people"
        GOLDEN.write_text(text)
    assert GOLDEN.exists(), f"set {UPDATE}=1 to write {GOLDEN.name}"
    assert text == GOLDEN.read_text()


def test_kinds_and_homes_of_a_step() -> None:
    found = buffers(step_of(Mlp(), torch.ones(32, 8)))
    kinds: dict[Kind, set[int]] = {}
    for buffer in found.values():
        kinds.setdefault(buffer.kind, set()).add(buffer.size)
    weights = {8 * 16 * 4, 16 * 4, 16 * 4 * 4, 4 * 4}
    assert kinds[Kind.PARAMETER] == weights
    assert kinds[Kind.GRADIENT] == weights
    assert kinds[Kind.INPUT] == {32 * 8 * 4}
    assert kinds[Kind.OUTPUT] == {32 * 4 * 4}
    assert kinds[Kind.SAVED] == {32 * 16 * 4}
    homes = {b.kind: b.home for b in found.values() if b.kind is not Kind.TEMPORARY}
    assert homes == {
        Kind.PARAMETER: Home.USER,
        Kind.INPUT: Home.USER,
        Kind.OUTPUT: Home.EXTERNAL,
        Kind.GRADIENT: Home.EXTERNAL,
        Kind.SAVED: Home.ARENA,
    }


def test_the_gradients_of_the_outputs_come_first_in_the_backward() -> None:
    step = step_of(Mlp(), torch.ones(32, 8))
    [forward, backward] = step.phases
    first = step.ops[backward[0]]
    assert first.name == "tangents"
    assert names(step, first.creates) == ["tangents_1"]
    assert buffers(step)["tangents_1"].home is Home.EXTERNAL
    assert all(step.ops[i].phase == 0 for i in forward)
    assert all(backward[0] in step.ops[i].after for i in backward[1:])


def test_where_a_buffer_comes_from() -> None:
    step = step_of(nn.Sequential(nn.Linear(8, 8), Mlp()), torch.ones(2, 8))
    assert {b.where.rpartition(".")[2] for b in step.buffers if b.home is Home.USER} == {""}
    made = [ops(step)[name].where for name in ("addmm", "addmm_1", "addmm_2")]
    assert [path.rpartition(".")[2] for path in made] == ["0", "up", "down"]


def test_views_are_no_buffers_of_their_own() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.exp()
        return (y.view(24).t().detach().view(6, 4)[1:] + y.t()[1:]).sum(0)

    found = captured(fn, torch.randn(4, 6)).problem
    assert list(buffers(found)) == ["x_1", "exp", "add", "sum_1"]
    assert list(ops(found)) == ["exp", "add", "sum_1"]
    assert names(found, ops(found)["add"].reads) == ["exp"]


def test_a_view_of_the_users_is_the_users() -> None:
    found = captured(lambda x: x.view(24) + 1, torch.randn(4, 6)).problem
    assert names(found, ops(found)["add"].reads) == ["x_1"]
    assert buffers(found)["x_1"].home is Home.USER


def test_a_returned_view_keeps_the_whole_buffer() -> None:
    found = buffers(captured(lambda x: x.exp().t()[:2], torch.randn(4, 6)).problem)
    assert (found["exp"].kind, found["exp"].home) == (Kind.OUTPUT, Home.EXTERNAL)
    assert found["exp"].size == 4 * 6 * 4


def test_a_returned_input_stays_the_users() -> None:
    found = buffers(captured(lambda x: (x, x.exp()), torch.randn(4)).problem)
    assert (found["x_1"].kind, found["x_1"].home) == (Kind.INPUT, Home.USER)


def test_sizes_are_those_of_the_storage() -> None:
    def fn(x: Tensor) -> tuple[Tensor, ...]:
        return x.double(), x > 0, x.expand(3, 5, 7) * 1, x.sum()

    found = buffers(captured(fn, torch.randn(5, 7)).problem)
    assert [b.size for b in found.values()] == [140, 280, 35, 420, 4]


def test_an_op_with_several_results() -> None:
    found = captured(lambda x: x.topk(2)[0].exp(), torch.randn(3, 5)).problem
    assert names(found, ops(found)["topk"].creates) == ["topk.0", "topk.1"]
    assert names(found, ops(found)["exp"].reads) == ["topk.0"]
    assert [buffers(found)[f"topk.{i}"].size for i in range(2)] == [3 * 2 * 4, 3 * 2 * 8]


def test_tensors_in_lists_are_read() -> None:
    found = captured(lambda x: torch.cat([x.exp(), x, x.sin()]), torch.randn(3)).problem
    assert names(found, ops(found)["cat"].reads) == ["exp", "x_1", "sin"]


def test_what_has_no_out_variant_is_external() -> None:
    def fn(x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.exp(), (5,)).sin() + 1

    found = buffers(captured(fn, torch.randn(3, 5)).problem)
    assert found["native_layer_norm.0"].home is Home.EXTERNAL
    assert found["exp"].home is found["sin"].home is Home.ARENA


def test_what_is_empty_is_external() -> None:
    found = buffers(captured(lambda x: x.exp().sin(), torch.randn(0, 5)).problem)
    assert (found["exp"].size, found["exp"].home) == (0, Home.EXTERNAL)


def test_what_may_be_written_over_what() -> None:
    found = captured(lambda x: (x.exp() + x.sin()).t().exp(), torch.randn(3, 5)).problem
    over = {op.name: [tuple(names(found, pair)) for pair in op.over] for op in found.ops}
    assert over == {
        "exp": [("exp", "x_1")],  # allowed, but x is the user's: no plan takes it
        "sin": [("sin", "x_1")],
        "add": [("add", "exp"), ("add", "sin")],
        "exp_1": [("exp_1", "add")],
    }


def test_random_ops_keep_their_order() -> None:
    def fn(x: Tensor) -> tuple[Tensor, ...]:
        a, b = torch.bernoulli(x), torch.rand_like(x)
        return a, x.exp(), b, torch.randn_like(x)

    found = captured(fn, torch.rand(4)).problem
    place = {op.name: i for i, op in enumerate(found.ops)}
    assert ops(found)["bernoulli"].after == ()
    assert ops(found)["rand_like"].after == (place["bernoulli"],)
    assert ops(found)["exp"].after == ()
    assert ops(found)["randn_like"].after == (place["rand_like"],)


def test_dropouts_of_a_step_keep_their_order() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.5), nn.Dropout(0.1))
    step = step_of(net, torch.randn(3, 4))
    place = {op.name: i for i, op in enumerate(step.ops)}
    dropouts = [name for name in place if name.startswith("native_dropout") and "back" not in name]
    assert len(dropouts) == 3
    for first, then in pairwise(dropouts):
        assert place[first] in step.ops[place[then]].after


def test_who_reads_before_a_change_and_who_after() -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.exp()
        before = y.sin()
        y.view(4).add_(1)
        return before, y.cos()

    found = captured(fn, torch.randn(4)).problem
    place = {op.name: i for i, op in enumerate(found.ops)}
    assert names(found, ops(found)["add_"].mutates) == ["exp"]
    assert ops(found)["add_"].creates == ()
    waits = {op.name: found.predecessors[i] for i, op in enumerate(found.ops)}
    assert place["sin"] in waits["add_"]
    assert waits["cos"] == (place["add_"],)


def test_several_results_given_in_a_list_are_changed() -> None:
    def fn(x: Tensor) -> Tensor:
        a, b = x.exp(), x.sin()
        torch._foreach_add_([a, b], 1.0)
        return a + b

    found = captured(fn, torch.randn(4)).problem
    assert names(found, ops(found)["_foreach_add_"].mutates) == ["exp", "sin"]


def test_batch_norm_writes_its_statistics_after_everyone_has_read_them() -> None:
    step = step_of(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)), torch.randn(6, 8))
    place = {op.name: i for i, op in enumerate(step.ops)}
    writers = [op for op in step.ops if op.name.startswith("copy_")]
    written = [b for op in writers for b in op.mutates]
    assert [step.buffers[b].size for b in written] == [8, 16, 16]  # a count, means, variances
    for op in writers:
        [changed] = op.mutates
        assert step.buffers[changed].home is Home.USER
        others = [u for u in step.users[changed] if u != place[op.name]]
        assert others
        assert set(others) <= set(step.predecessors[place[op.name]])


def test_the_same_name_in_forward_and_backward() -> None:
    """A matmul's forward and its backward are all called mm."""
    w = torch.randn(4, 4, requires_grad=True)
    step = step_of(lambda x: (x @ w).sin(), torch.randn(3, 4))
    assert len({op.name for op in step.ops}) == len(step.ops)
    assert any(op.name.startswith("mm") for op in step.ops if op.phase == 0)
    assert any(op.name.startswith("mm") for op in step.ops if op.phase == 1)


def test_the_arena_lies_where_most_of_it_does() -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        small = torch.ones(2, device="meta").exp().sin()
        return x.exp().sin(), small

    found = captured(fn, torch.randn(100))
    homes = {name: b.home for name, b in buffers(found.problem).items() if "exp" in name}
    assert found.device == torch.device("cpu")
    assert homes == {"exp": Home.EXTERNAL, "exp_1": Home.ARENA}


def test_where_the_parts_come_from() -> None:
    found = captured(lambda x: x.exp().topk(2), torch.randn(3, 5))
    for op, node, results in zip(found.problem.ops, found.nodes, found.results, strict=True):
        assert node is not None
        assert node.name == op.name
        assert results == op.creates
    assert [found.buffer(n.meta["val"]) for n in found.forward.find_nodes(op="placeholder")] == [0]


def test_a_graph_that_calls_a_module() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.ones(3)
    graph.output(graph.call_module("layer", (x,)))
    with pytest.raises(UnplannableError, match="layer: a call_module node"):
        capture("p", graph, None, Numbers())


def test_a_sparse_tensor() -> None:
    with pytest.raises(UnplannableError, match=r"to_sparse: a tensor of layout torch.sparse_coo"):
        captured(lambda x: torch.ops.aten._to_sparse(x).coalesce().values(), torch.eye(3))


def test_a_size_that_only_the_data_decides() -> None:
    def fn(x: Tensor) -> Tensor:
        return x.nonzero()

    module = make_fx(fn, tracing_mode="symbolic", _allow_non_fake_inputs=True)(torch.eye(3))
    [x] = module.graph.find_nodes(op="placeholder")
    with pytest.raises(UnplannableError, match=r"nonzero.*depends on data"):
        capture("p", module.graph, None, Numbers.bind([x], [torch.eye(3)]))


def test_symbols_become_the_numbers_of_this_call() -> None:
    module = make_fx(lambda x: x.exp().view(-1), tracing_mode="symbolic")(torch.ones(3, 4))
    inputs = module.graph.find_nodes(op="placeholder")
    for shape in ((3, 4), (5, 7)):
        numbers = Numbers.bind(inputs, [torch.ones(shape)])
        found = buffers(capture("p", module.graph, None, numbers).problem)
        assert found["exp"].size == shape[0] * shape[1] * 4
        assert numbers.shape(inputs[0].meta["val"].shape) == shape


def test_a_plain_number_stands_for_itself() -> None:
    assert Numbers()(5) == 5
    assert Numbers().shape((2, 3)) == (2, 3)
