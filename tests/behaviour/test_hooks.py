"""Hooks on saved tensors, on parameters and on modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from tests.helpers import (
    Compile,
    assert_equal,
    both_arenas,
    grads,
    mlp,
    random,
    same,
    total,
)

pytestmark = pytest.mark.usefixtures("everything_placed")


class Copies:
    """Pack hooks that put a copy of every saved tensor aside, and remember how it was."""

    def __init__(self) -> None:
        self.copies: list[Tensor] = []
        self.were: list[Tensor] = []

    def pack(self, tensor: Tensor) -> Tensor:
        self.copies.append(tensor.detach().clone())
        self.were.append(tensor.detach().clone())
        return self.copies[-1]


@pytest.mark.parametrize(
    "function",
    [
        mlp(),
        lambda x: x.cumsum(0).tanh() * 3,
        lambda x: (x * 2).cumsum(0).exp().cumsum(1).sin() * 3,
    ],
    ids=["several", "one", "two"],
)
def test_hooks_that_copy_what_is_saved(function: Any) -> None:
    """The backward must not use the copies' memory as if it were the arena."""
    seen: list[Copies] = []

    def scenario(compile_: Compile) -> Iterator[Any]:
        run = compile_(function)
        for _ in range(2):
            x = random(5, 8).requires_grad_()
            copies = Copies()
            seen.append(copies)
            with saved_tensors_hooks(copies.pack, lambda t: t):
                y = run(x)
            total(y).backward()  # type: ignore[no-untyped-call]
            yield x.grad

    same(scenario, detours=2)
    for copies in seen:
        assert_equal(copies.copies, copies.were)


def test_save_on_cpu() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        run = compile_(model)
        for _ in range(2):
            with save_on_cpu():
                loss = total(run(random(5, 8)))
            loss.backward()  # type: ignore[no-untyped-call]
            yield from grads(model)

    same(scenario)


@both_arenas
def test_hooks_on_parameters_and_modules(arena: str) -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        model = mlp()
        seen: list[Tensor] = []
        model[0].weight.register_hook(lambda g: g * 2)
        model[2].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
        model[1].register_forward_hook(lambda m, i, o: o * 1.5)
        run = compile_(model)
        for _ in range(2):
            total(run(random(5, 8))).backward()  # type: ignore[no-untyped-call]
        yield from [*seen, *grads(model)]

    same(scenario, arenas=[arena])
