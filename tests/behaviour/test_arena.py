"""The arena over many steps: what the user holds stays as it is, nothing else is held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.runtime import blocks as allocations
from tests.helpers import (
    Compile,
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


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the blocks that the shelves allocate from now on, in bytes."""
    made: list[int] = []
    allocate = allocations.allocate

    def counting(size: int, device: torch.device) -> Tensor:
        made.append(size)
        return allocate(size, device)

    monkeypatch.setattr(allocations, "allocate", counting)
    return made


def step(run: Any, model: nn.Module, x: Tensor) -> list[Any]:
    model.zero_grad()
    out = run(x)
    total(out).backward()  # type: ignore[no-untyped-call]
    return [*snapshot(out), *grads(model)]


def test_kept_blocks_are_used_again(blocks: list[int]) -> None:
    model = mlp()
    run = compiler("keep")(model)
    first = step(run, model, random(5, 8))
    made = len(blocks)
    assert made > 0
    for _ in range(3):
        assert_equal(step(run, model, random(5, 8)), first)
    assert len(blocks) == made


def test_two_pending_steps_have_two_sets_of_blocks(blocks: list[int]) -> None:
    model = mlp()
    run = compiler("keep")(model)
    step(run, model, random(5, 8))
    made = len(blocks)
    for _ in range(3):
        losses = [total(run(random(5, 8))), total(run(random(5, 8) + 1))]
        torch.autograd.backward(losses)
    assert len(blocks) == 2 * made


def test_release_gives_back_what_is_held(blocks: list[int]) -> None:
    model = mlp()
    run = compiler("keep")(model)
    first = step(run, model, random(5, 8))
    held = sum(blocks)
    assert roam.release() == held
    assert roam.release() == 0
    assert_equal(step(run, model, random(5, 8)), first)
    assert sum(blocks) == 2 * held
    assert roam.release() == held


def test_release_between_forward_and_backward(blocks: list[int]) -> None:
    model = mlp()
    run = compiler("keep")(model)
    first = step(run, model, random(5, 8))
    model.zero_grad()
    out = run(random(5, 8))
    roam.release()
    total(out).backward()  # type: ignore[no-untyped-call]
    assert_equal([*snapshot(out), *grads(model)], first)


def test_held_bytes_are_what_was_measured() -> None:
    model = mlp(width=500)
    run = compiler("keep")(model)
    x = torch.randn(50, 8)

    def one_step() -> None:
        model.zero_grad()
        total(run(x)).backward()  # type: ignore[no-untyped-call]

    one_step()
    roam.release()
    model.zero_grad()
    gradients = sum(p.nbytes for p in model.parameters())
    held = roam.measure_peak(one_step).held - gradients
    assert held == roam.release() > 0


def test_a_step_holds_nothing_but_gradients() -> None:
    model = mlp(width=500)
    run = compiler("step")(model)
    x = torch.randn(50, 8)

    def one_step() -> None:
        total(run(x)).backward()  # type: ignore[no-untyped-call]

    one_step()
    model.zero_grad()
    assert roam.measure_peak(one_step).held == sum(p.nbytes for p in model.parameters())
    assert roam.release() == 0


@both_arenas
def test_what_the_user_holds_is_never_overwritten(arena: str) -> None:
    """Outputs, their views, gradients, and what autograd shows of a pending graph."""
    model = nn.Sequential(mlp(), nn.Softmax(1))
    compiled = compiler(arena)(lambda x: (lambda y: (y, y[1:], y.exp(), y.argmax(1)))(model(x)))
    held: list[Any] = []
    were: list[Any] = []
    pending = total(compiled(random(5, 8) - 7))
    for i in range(4):
        model.zero_grad(set_to_none=True)
        outputs = compiled(random(5, 8) + i)
        total(outputs).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in model.parameters()]
        with torch.no_grad():
            evaluated = compiled(random(5, 8) + i)
        new = [*outputs, *gradients, *evaluated]
        held += new
        were += snapshot(new)
    assert_equal(held, were)
    model.zero_grad()
    pending.backward()  # type: ignore[no-untyped-call]
    late = grads(model)
    model.zero_grad()
    total(compiled(random(5, 8) - 7)).backward()  # type: ignore[no-untyped-call]
    assert_equal(late, grads(model))
    assert_equal(held, were)


def test_evaluation_and_training_in_turns() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        run = compile_(model)
        for _ in range(2):
            for evaluating in (torch.inference_mode, torch.no_grad):
                model.eval()
                with evaluating():
                    yield from snapshot(run(random(5, 8)))
                model.train()
                total(run(random(5, 8))).backward()  # type: ignore[no-untyped-call]
                yield from [*grads(model), *snapshot(list(model.buffers()))]

    same(scenario, planned=3)  # training, without gradients, in inference mode


@both_arenas
def test_inference_mode_first(arena: str) -> None:
    """Memory taken in inference mode must serve for training as well."""

    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        with torch.inference_mode():
            yield from snapshot(run(random(5, 8)))
        loss = total(run(random(5, 8)))
        with torch.inference_mode():
            yield from snapshot(run(random(5, 8)))
        loss.backward()  # type: ignore[no-untyped-call]
        yield from grads(model)

    same(scenario, planned=2, arenas=[arena])


def test_an_error_in_the_middle_of_a_kept_step(blocks: list[int]) -> None:
    model = nn.Embedding(10, 8)
    run = compiler("keep")(lambda i: model(i).sin().exp().cumsum(0).tanh())
    first = step(run, model, torch.arange(5))
    with pytest.raises(IndexError):
        run(torch.arange(5) + 7)
    assert_equal(step(run, model, torch.arange(5)), first)
