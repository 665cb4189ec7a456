"""Writing in place, views and aliases, custom ops: who shares memory with whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import (
    Compile,
    both_arenas,
    calls,
    check,
    compiler,
    mlp,
    random,
    same,
    snapshot,
    total,
)

pytestmark = pytest.mark.usefixtures("everything_placed")


def test_in_place_activations() -> None:
    def net(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        return ((x @ a).relu_() @ b).add_(1).mul_(2)

    check(calls(net, (8, 8), (8, 3)), random(5, 8))


def test_in_place_on_parts() -> None:
    def write(w: Tensor, x: Tensor) -> Tensor:
        y = (x @ w).clone()
        y.masked_fill_(x > 0, 0.5)
        y[1:3] = 2.0
        y[:, 0] += x[:, 1]
        where = (torch.tensor([0, 1]), torch.tensor([2, 2]))
        y.index_put_(where, torch.tensor([5.0, 6.0]), accumulate=True)
        y[3].copy_(y[4])
        return y.sin()

    check(calls(write, (8, 8)), random(5, 8))


def test_an_input_that_is_written_to() -> None:
    def write(w: Tensor, x: Tensor) -> Tensor:
        x.add_(1)
        return (x @ w).relu()

    check(calls(write, (8, 8)), random(5, 8))


def test_a_buffer_that_is_written_to() -> None:
    class Running(nn.Module):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)
            self.register_buffer("mean", torch.zeros(8))
            self.register_buffer("steps", torch.tensor(0))

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            self.mean.lerp_(y.detach().mean(0), 0.1)
            self.steps += 1
            return (y - self.mean).exp() / self.steps

    # torch 2.13's own aot_eager counts the steps again in the backward, from what is one too many.
    check(Running, random(5, 8), reference="aot_eager_default_partitioner")


def test_views_are_returned() -> None:
    def views(w: Tensor, x: Tensor) -> list[Tensor]:
        y = x @ w
        return [y, y.t(), y[1:], y.view(-1), *y.unbind(0)]

    check(calls(views, (8, 8)), random(5, 8))


def test_a_view_alone_is_returned() -> None:
    check(calls(lambda w, x: (x @ w).sin()[1:3].t(), (8, 8)), random(5, 8))


def test_the_same_output_twice() -> None:
    def twice(w: Tensor, x: Tensor) -> list[Tensor]:
        y = x @ w
        return [y, y, y * 2]

    check(calls(twice, (8, 8)), random(5, 8))


def test_inputs_and_parameters_are_returned() -> None:
    def through(w: Tensor, x: Tensor) -> list[Tensor]:
        return [x, x @ w, x.view(-1), w, w.t()]

    check(calls(through, (8, 8)), random(5, 8))


def test_inputs_that_share_memory() -> None:
    def scenario(compile_: Any) -> Any:
        base = random(6, 8)
        weight = nn.Parameter(random(8, 8))

        def net(x: Tensor, y: Tensor) -> Tensor:
            x.mul_(2)
            return (x @ weight).exp() + (y @ weight).sin()

        run = compile_(net)
        for _ in range(2):
            out = run(base[:4], base[2:])
            total(out).backward()  # type: ignore[no-untyped-call]
            yield from snapshot([out, base, weight.grad])

    same(scenario)


def test_the_user_writes_to_an_output() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        weight = nn.Parameter(random(5, 8))
        run = compile_(lambda x: (weight * x).sin().cumsum(0) * 2)
        for i in range(3):
            y = run(random(5, 8) + i)
            y.mul_(2)
            y[0] = 0
            total(y).backward()  # type: ignore[no-untyped-call]
            yield from snapshot([y, weight.grad])

    same(scenario)


@both_arenas
def test_a_parameter_changed_before_the_backward_is_autograds_own_error(arena: str) -> None:
    model = mlp()
    loss = total(compiler(arena)(model)(random(5, 8)))
    with torch.no_grad():
        model[2].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


class Keeping(torch.autograd.Function):
    """Hands a saved tensor back as the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.sin()
        ctx.save_for_backward(y)
        return y * 3

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        kept: Tensor = y
        return kept


def test_a_saved_tensor_is_the_gradient() -> None:
    check(calls(lambda w: Keeping.apply(w), (5, 8)))  # type: ignore[no-untyped-call]
    check(calls(lambda w, x: Keeping.apply(w * x) + x, (5, 8)), random(5, 8))  # type: ignore[no-untyped-call]


def test_two_parameters_with_the_same_gradient() -> None:
    check(calls(lambda a, b, x: (a + b + x).exp(), (5, 8), (5, 8)), random(5, 8))


@torch.library.custom_op("roam_tests::scaled_sine", mutates_args=())
def scaled_sine(x: Tensor, scale: float) -> Tensor:
    return x.sin() * scale


@scaled_sine.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.scale = inputs[1]


def _differentiate(ctx: Any, above: Tensor) -> Any:
    (x,) = ctx.saved_tensors
    return above * x.cos() * ctx.scale, None


scaled_sine.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("roam_tests::count_", mutates_args={"counts"})
def count_(counts: Tensor, x: Tensor) -> None:
    counts.add_((x > 0).sum(0))


@torch.library.custom_op("roam_tests::storage_sum", mutates_args=())
def storage_sum(x: Tensor) -> Tensor:
    """Looks past its argument, at the whole storage behind it."""
    whole = torch.empty(0).set_(x.untyped_storage())  # type: ignore[call-overload]
    return whole.sum()  # type: ignore[no-any-return]


@storage_sum.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(())


def test_a_custom_op() -> None:
    check(calls(lambda w, x: scaled_sine((x @ w).exp(), 0.7).relu(), (8, 8)), random(5, 8))


def test_a_custom_op_that_writes_to_its_argument() -> None:
    class Counting(nn.Module):
        counts: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)
            self.register_buffer("counts", torch.zeros(8, dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x).sin()
            count_(self.counts, y.detach())
            scratch = torch.zeros(8, dtype=torch.int64)
            count_(scratch, x)
            return y.exp() * scratch

    check(Counting, random(5, 8))


def test_a_custom_op_sees_only_its_argument() -> None:
    def net(w: Tensor, x: Tensor) -> Tensor:
        y = (x @ w).exp()
        return y.sin() * storage_sum(y.detach() * 2)

    check(calls(net, (8, 8)), random(5, 8))
