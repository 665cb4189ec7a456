"""Graph breaks, recompilation, dynamic shapes, checkpoints, control flow: several graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.helpers import (
    Compile,
    Scenario,
    calls,
    check,
    grads,
    mlp,
    random,
    same,
    snapshot,
    total,
)

pytestmark = pytest.mark.usefixtures("everything_placed")


def training(model_of: Any, batches: list[Tensor]) -> Scenario:
    """One backward for each batch."""

    def scenario(compile_: Compile) -> Iterator[Any]:
        model = model_of()
        run = compile_(model)
        for x in batches:
            out = run(x)
            total(out).backward()  # type: ignore[no-untyped-call]
            yield from [*snapshot(out), *grads(model)]

    return scenario


def batches(*rows: int) -> list[Tensor]:
    return [random(n, 8) for n in rows]


def test_a_graph_break() -> None:
    def broken(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        y = (x @ a).relu()
        torch._dynamo.graph_break()
        return (y @ b).sin() * y

    check(calls(broken, (8, 8), (8, 8)), random(5, 8), planned=2)


def test_a_view_of_a_temporary_is_changed_by_the_next_graph() -> None:
    """As masks are in the features of speech models."""

    def masked(a: Tensor, b: Tensor, fill: Tensor, x: Tensor) -> Tensor:
        y = (x @ a).transpose(0, 1)
        torch._dynamo.graph_break()
        y[1:3] = fill
        return (y.transpose(0, 1) @ b).sin()

    check(calls(masked, (8, 8), (8, 8), (5,)), random(5, 8), planned=2)


def test_a_print_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    def talking(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        y = (x @ a).relu()
        print("sum", y.shape)
        return (y @ b).sin() * y

    check(calls(talking, (8, 8), (8, 8)), random(5, 8), planned=2)
    assert capsys.readouterr().out.count("sum") == 8


def test_a_decision_by_data() -> None:
    def deciding(a: Tensor, x: Tensor) -> Tensor:
        y = x @ a
        if y.sum() > 0:
            return y.exp()
        return y.sin()

    check(calls(deciding, (8, 8)), random(5, 8), planned=2)


def test_another_shape_is_another_graph() -> None:
    same(training(mlp, batches(5, 3, 5)), planned=2, dynamic=False)


def test_dynamo_turns_a_shape_dynamic() -> None:
    same(training(mlp, batches(5, 3, 6, 5, 3)), planned=4)  # 5; then dynamic: 3, 6, 5


def test_a_plan_for_each_dynamic_shape() -> None:
    same(training(mlp, batches(5, 7, 5, 3, 7)), planned=3, dynamic=True)


def test_dynamic_shapes_that_share_no_saved_tensor() -> None:
    """The backward has to know which shape it is for when the arena cannot tell it."""
    running = calls(lambda w, x: (x * w).sum(1).cumsum(0), (8,))
    same(training(running, batches(5, 7, 5, 3, 7)), planned=3, dynamic=True)


def test_pending_steps_of_different_shapes() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        losses = [total(run(x)) for x in batches(5, 7, 3)]
        for i in (1, 0, 2):
            losses[i].backward()  # type: ignore[no-untyped-call]
            yield from grads(model)

    same(scenario, planned=3, dynamic=True)


def test_a_dimension_marked_dynamic() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        for x in batches(5, 7, 5):
            torch._dynamo.mark_dynamic(x, 0)
            total(run(x)).backward()  # type: ignore[no-untyped-call]
            yield from grads(model)

    same(scenario, planned=2)


def test_attention_of_dynamic_length() -> None:
    def attend(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        x = x.view(1, 1, *x.shape)
        mask = torch.ones(x.shape[2], x.shape[2]).tril() > 0
        return F.scaled_dot_product_attention(x @ q, x @ k, x, attn_mask=mask).mean(2)

    make = calls(attend, (8, 8), (8, 8))
    same(training(make, batches(5, 7, 5, 3, 7)), planned=3, dynamic=True)


def test_one_of_the_shapes_cannot_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    from roam.lowering.aten import edited_graph

    plan = edited_graph.plan

    def picky(problem: Any, settings: Any) -> Any:
        if any(b.size == 7 * 16 * 4 for b in problem.buffers):
            raise MemoryError("seven is too many")
        return plan(problem, settings)

    monkeypatch.setattr(edited_graph, "plan", picky)
    same(training(mlp, batches(5, 7, 5, 7)), planned=1, unplanned=1, dynamic=True)


def test_floats_that_change() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        weight = nn.Parameter(random(5, 8))
        run = compile_(lambda rate: (weight.sin() * rate).exp())
        for rate in (0.1, 0.2, 0.3):
            total(run(rate)).backward()  # type: ignore[no-untyped-call]
            yield from snapshot(weight.grad)

    same(scenario, planned=2)


class Checkpointed(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.dropout = dropout

    def block(self, x: Tensor) -> Tensor:
        y = F.dropout(self.first(x).sin().exp(), self.dropout)
        return self.last(y).relu()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False) * 2  # type: ignore[no-any-return]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_checkpoint_inside(dropout: float) -> None:
    check(lambda: Checkpointed(dropout), random(5, 8), eager=dropout == 0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_checkpoint_outside(dropout: float) -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = nn.Sequential(mlp(), nn.Dropout(dropout), nn.Tanh())
        run = compile_(model)
        for _ in range(2):
            loss = total(checkpoint(run, random(5, 8), use_reentrant=False))
            loss.backward()  # type: ignore[no-untyped-call]
            yield from [*snapshot(loss), *grads(model)]

    same(scenario)


def test_cond() -> None:
    def branching(w: Tensor, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: (y * 2).sin(), lambda y: y.cos(), (x @ w,)).exp()  # type: ignore[no-any-return]

    x = torch.ones(5, 8)
    same(training(calls(branching, (8, 8)), [x, -x]), planned=1)


def test_a_sparse_operand() -> None:
    def multiply(w: Tensor, x: Tensor) -> Tensor:
        return torch.sparse.mm((x * (x > 0)).to_sparse(), w).relu()

    check(calls(multiply, (8, 8)), random(5, 8), planned=1)
