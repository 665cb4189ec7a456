"""What people do between a forward and its backward, and how often they do either."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from tests.helpers import (
    Compile,
    assert_counts,
    assert_equal,
    both_arenas,
    compiler,
    grads,
    mlp,
    random,
    same,
    snapshot,
    total,
)

pytestmark = pytest.mark.usefixtures("everything_placed")


def test_an_ordinary_loop() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        loss_of = nn.CrossEntropyLoss()
        for step in range(5):
            x, y = random(6, 8) + step, torch.arange(6) % 4
            optimizer.zero_grad()
            loss = loss_of(run(x), y)
            loss.backward()
            optimizer.step()
            yield from snapshot([loss, list(model.parameters()), grads(model)])

    same(scenario)


def test_the_loss_inside_of_the_compiled_function() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def loss_of(x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.cross_entropy(model(x), y)

        run = compile_(loss_of)
        for step in range(3):
            loss = run(random(6, 8) + step, torch.arange(6) % 4)
            loss.backward()
            yield from snapshot([loss, grads(model)])
            optimizer.step()
            optimizer.zero_grad()

    same(scenario)


def test_gradients_accumulate() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        for step in range(3):
            total(run(random(5, 8) * step)).backward()  # type: ignore[no-untyped-call]
            yield from grads(model)

    same(scenario)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_forwards_before_their_backwards(order: tuple[int, ...]) -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        for _ in range(2):
            losses = [total(run(random(5, 8))), total(run(random(5, 8) + 1))]
            for i in order:
                losses[i].backward()  # type: ignore[no-untyped-call]
                yield from grads(model)

    same(scenario)


def test_a_siamese_net() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        for _ in range(2):
            distance = (run(random(5, 8)) - run(random(5, 8) + 1)).pow(2).sum()
            distance.backward()
            yield from [*snapshot(distance), *grads(model)]

    same(scenario)


@both_arenas
def test_an_evaluation_between_forward_and_backward(arena: str) -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        for _ in range(2):
            loss = total(run(random(5, 8)))
            with torch.no_grad():
                yield from snapshot(run(random(5, 8) - 1))
            loss.backward()  # type: ignore[no-untyped-call]
            yield from grads(model)

    same(scenario, planned=2, arenas=[arena])


@both_arenas
def test_a_dropped_graph_gives_its_memory_back(arena: str) -> None:
    run = compiler(arena)(mlp(width=1000))
    x = torch.randn(50, 8)
    total(run(x)).backward()  # type: ignore[no-untyped-call]
    pending = total(run(x))
    roam.release()
    assert roam.measure_peak(lambda: run(x)).held == 0
    saved = _saved_storages(pending)
    assert len(saved) > 0
    assert [ref for ref in saved if ref() is None] == []
    del pending
    gc.collect()
    assert [ref for ref in saved if ref() is not None] == []
    assert_counts(planned=1)


def _saved_storages(loss: Tensor) -> list[weakref.ref[Any]]:
    """Weak references to the memory that the compiled forward saved for its backward."""
    waiting: list[Any] = [loss.grad_fn]
    found: list[weakref.ref[Any]] = []
    while waiting:
        node = waiting.pop()
        if node is not None:
            saved = getattr(node, "saved_tensors", ())
            blocks = [t.untyped_storage() for t in saved if not t.requires_grad]
            found += [weakref.ref(s) for s in blocks if hasattr(s, "is_roam_block")]
            waiting += [parent for parent, _ in node.next_functions]
    return found


def test_a_forward_whose_backward_never_runs() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        for step in range(3):
            yield from snapshot(run(random(5, 8) + step))
        total(run(random(5, 8))).backward()  # type: ignore[no-untyped-call]
        yield from grads(model)

    same(scenario)


def test_retain_graph() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        for _ in range(2):
            loss = total(run(random(5, 8)))
            loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
            yield from grads(model)
            loss.backward()  # type: ignore[no-untyped-call]
            yield from grads(model)

    same(scenario, detours=2)
    (reason,) = roam.report().detours
    assert "retain_graph" in reason


@both_arenas
def test_backward_twice_is_autograds_own_error(arena: str) -> None:
    model = mlp()
    loss = total(compiler(arena)(model)(random(5, 8)))
    loss.backward()  # type: ignore[no-untyped-call]
    first = grads(model)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()  # type: ignore[no-untyped-call]
    assert_equal(grads(model), first)


@both_arenas
def test_double_backward_is_refused(arena: str) -> None:
    model = mlp()
    loss = total(compiler(arena)(model)(random(5, 8)))
    first = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        total(first).backward()  # type: ignore[no-untyped-call]


def test_grad_of_some_inputs() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        x = random(5, 8).requires_grad_()
        yield from torch.autograd.grad(total(run(x)), [model[0].weight, x])
        yield from torch.autograd.grad(total(run(x)), [model[2].bias])
        yield from grads(model)

    same(scenario)


def test_some_outputs_are_not_differentiated() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        weight = nn.Parameter(random(8, 8))
        run = compile_(lambda x: ((x @ weight).sin(), (x @ weight.t()).cos()))
        for i in (0, 1):
            total(run(random(5, 8))[i]).backward()  # type: ignore[no-untyped-call]
            yield from snapshot(weight.grad)

    same(scenario)


def test_frozen_and_unused_parameters() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.trained = nn.Linear(8, 8), nn.Linear(8, 8)
            self.unused = nn.Linear(8, 8)
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.trained(self.frozen(x).relu())  # type: ignore[no-any-return]

    def scenario(compile_: Compile) -> Iterator[Any]:
        model = Partly()
        run = compile_(model)
        for _ in range(2):
            total(run(random(5, 8))).backward()  # type: ignore[no-untyped-call]
            yield from grads(model)
        model.frozen.requires_grad_(True)  # and thawed: dynamo compiles again
        total(run(random(5, 8))).backward()  # type: ignore[no-untyped-call]
        yield from grads(model)

    same(scenario, planned=2)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_compiled_optimizer_step(kind: Any) -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        optimizer = kind(model.parameters(), lr=0.1)
        step = compile_(lambda: optimizer.step())
        for i in range(3):
            total(model(random(5, 8) + i)).backward()  # type: ignore[no-untyped-call]
            step()
            optimizer.zero_grad()
            yield from snapshot(list(model.parameters()))

    same(scenario, eager=False)  # compiled, AdamW computes its steps as tensors


@torch._dynamo.config.patch(compiled_autograd=True)
def test_a_whole_step_under_compiled_autograd() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()

        def step(x: Tensor) -> Tensor:
            loss = total(model(x))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        run = compile_(step)
        for i in range(3):
            yield from [*snapshot(run(random(5, 8) + i)), *grads(model)]

    same(scenario, planned=3)  # dynamo compiles again when gradients are there to add to


@torch._dynamo.config.patch(trace_autograd_ops=True)
def test_gradients_taken_inside_of_the_graph() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()

        def step(x: Tensor) -> list[Tensor]:
            return list(torch.autograd.grad(total(model(x)), list(model.parameters())))

        run = compile_(step)
        for i in range(3):
            yield from snapshot(run(random(5, 8) + i))

    same(scenario, eager=False)
