"""Saved tensors that Inductor's kernels recompute: fewer bytes, the same gradients, true plans."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import roam
from roam.bench import zoo
from roam.core.problem import Kind
from roam.lowering.inductor.partition import Partitioner, partition
from roam.optim import AdamA
from roam.passes.cheap_recompute import CheapRecompute
from tests.behaviour.small_nets import Convolutional
from tests.helpers import assert_equal, fused, measured_as_planned, random

pytestmark = pytest.mark.usefixtures("shared_kernels")
ROWS, WIDTH = 128, 64
SMALL, LARGE = ROWS * WIDTH * 4, ROWS * 4 * WIDTH * 4  # bytes of (rows, width), (rows, 4 width)
COLUMN, MASK = ROWS * 4, ROWS * WIDTH  # bytes of one number a row, of one byte an element


class Block(nn.Module):
    """A norm and an MLP beside a residual, with dropout if asked."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        deeper = self.down(functional.gelu(self.up(self.norm(x)), approximate="tanh"))
        return x + functional.dropout(deeper, self.dropout)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.silu(self.gate(x)) * self.up(x))


def of(kind: Callable[..., nn.Module], depth: int = 2) -> nn.Module:
    """Linear first, so that no block's input is the user's."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *(kind() for _ in range(depth)))


def rows(number: int = ROWS) -> Tensor:
    return random(number, WIDTH)


def saved(model: nn.Module, number: int = ROWS, **options: Any) -> int:
    """Bytes that the forward makes and saves, by the plan."""
    planned = roam.plan(
        model, rows(number), loss=lambda y: y.square().mean(), lowering="inductor", options=options
    )
    [(problem, _)] = planned.planned
    return sum(b.size for b in problem.buffers if b.kind is Kind.SAVED)


@cache
def saved_of_blocks(**options: Any) -> int:
    """`saved` of two blocks, which several tests compare with."""
    return saved(of(Block), **options)


def trained(model: nn.Module, loss: Callable[..., Tensor], *given: Any) -> list[Tensor]:
    """The loss and the gradients, with the same random numbers always."""
    torch.manual_seed(3)
    found = loss(model, *given)
    found.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return [found.detach(), *gradients]


def square(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def own(function: Any) -> Any:
    """A copy with a code object of its own, for which dynamo has compiled nothing."""
    return FunctionType(function.__code__.replace(), function.__globals__)


# ---- which bytes are saved ----


def test_pointwise_results_and_norms_are_recomputed() -> None:
    """Of each block stay: up's result, the norm's input, and its mean and scale."""
    expected, dropped = 2 * (LARGE + SMALL + 2 * COLUMN), 2 * (LARGE + SMALL)
    result = SMALL  # the derivative of the loss reads it
    assert saved_of_blocks(recompute="cheap") == expected + result
    assert saved_of_blocks() == expected + dropped + result


def test_what_is_not_asked_for_is_large() -> None:
    """By default only tensors of a mebibyte: kernels for less would not be worth their calls."""
    tall = (2**20 // LARGE) * ROWS  # so that gelu's results have a mebibyte, and the norms' less
    default, cheap, nothing = (
        saved(of(Block), tall, **options)
        for options in ({}, {"recompute": "cheap"}, {"recompute": False})
    )
    assert nothing - default == 2 * 2**20
    assert nothing - cheap == 2 * (2**20 + 2**18)


def test_layers_of_a_residual_net_are_not_made_again_all_at_once() -> None:
    """Each result is a pointwise op away from the one before: one kernel would make them all."""

    peaks = []
    for recompute in (False, "cheap"):
        model, x = nn.Sequential(nn.Conv2d(3, 4, 1), Convolutional()), random(8, 3, 16, 16)
        how: Any = {"lowering": "inductor", "options": {"recompute": recompute}}
        peaks.append(roam.plan(model, x, loss=lambda y: y.square().mean(), **how).peak)
    assert peaks[1] <= peaks[0]


def test_a_gated_mlp_saves_gate_and_up_only() -> None:
    inputs = 2 * SMALL  # of the two blocks
    result = SMALL
    assert saved(of(Gated), recompute="cheap") == 2 * 2 * LARGE + inputs + result
    assert saved(of(Gated)) == 2 * 3 * LARGE + inputs + result


def test_relu_saves_no_more_than_its_result() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))
    assert saved(model, recompute="cheap") == saved(model) == LARGE + SMALL


def test_dropout_masks_are_saved_and_not_drawn_again() -> None:
    with_masks = saved(of(lambda: Block(0.1)), recompute="cheap")
    assert with_masks == saved_of_blocks(recompute="cheap") + 2 * MASK


def test_what_a_checkpoint_recomputes_and_saves_stays_as_it_is() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = checkpoint(self.block, x, use_reentrant=False)
            return found

    assert saved(of(Checkpointed, 1), recompute="cheap") == saved(of(Checkpointed, 1))


@pytest.mark.parametrize("spare", [0, 1])
def test_a_target_keeps_what_fits(monkeypatch: pytest.MonkeyPatch, spare: int) -> None:
    """With room for one more norm's result, which costs the most for each byte, or a byte less."""
    least = saved_of_blocks(recompute="cheap")
    target = CheapRecompute(target_bytes=least + SMALL - spare)
    monkeypatch.setattr("roam.options.CheapRecompute", lambda: target)
    assert saved(of(Block), recompute="cheap") == least + (0 if spare else SMALL)


# ---- the same gradients, in the bytes that were planned ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Gated, id="gate"),
        pytest.param(Block, id="norm"),
        pytest.param(lambda: Block(0.1), id="dropout"),
    ],
)
def test_same_bits_in_fewer_bytes(make: Callable[[], nn.Module]) -> None:
    """Where saved tensors are the peak: in a net of two blocks a kernel of the backward is."""
    found, x = [], rows()
    for options in ({}, {"recompute": "cheap"}):
        torch._dynamo.reset()
        roam.reset_report()
        model = of(make, 4)
        run = fused(own(square), **options)
        bits = trained(model, run, x)

        def step(model: nn.Module = model, run: Any = run) -> None:
            run(model, x).backward()
            model.zero_grad(set_to_none=True)

        found.append((bits, measured_as_planned(step).peak))
    (before, high), (after, low) = found
    assert_equal(before, after)
    assert low < high


@pytest.mark.slow
def test_as_close_to_float64_as_without() -> None:
    model, x = of(Block), rows()
    exact = trained(copy.deepcopy(model).double(), square, x.double())
    errors = []
    for options in ({}, {"recompute": "cheap"}):
        torch._dynamo.reset()
        found = trained(model, fused(own(square), **options), x)
        errors.append([(a - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)])
    assert all(b <= 1.5 * a + 1e-7 for a, b in zip(*errors, strict=True))


@pytest.mark.slow
def test_batch_norm_reads_what_it_read_in_the_forward() -> None:
    """Its running statistics are written at the end of the forward: no chain may read them."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            scaled = torch.sigmoid(x) * (1 + self.norm.running_mean)
            return self.linear(self.norm(x)) + self.linear(scaled)

    found = []
    for options in ({}, {"recompute": "cheap"}):
        torch._dynamo.reset()
        model, run = of(Scaled, 1), fused(own(square), **options)
        found.append([t for _ in range(3) for t in trained(model, run, rows())])
    assert_equal(*found)


def test_folded_gradients_are_recomputed_from_the_old_weights() -> None:
    """A chain that reads a norm's weight runs before the fold that updates the weight."""
    weights = []
    for options in ({}, {"recompute": "cheap"}):
        torch._dynamo.reset()
        model = of(Block, 1)
        optimizer = AdamA(model.parameters(), lr=1e-2)
        run = fused(own(square), optimizer=optimizer, **options)
        for _ in range(3):
            run(model, rows()).backward()
            optimizer.step()
        weights.append([p.detach().clone() for p in model.parameters()])
    assert_equal(*weights)


def test_a_folded_step_takes_what_was_planned() -> None:
    """The derivative of gelu replaces its operand, although down's weight is not yet updated.

    The same kernel computes gelu again, which the gradient of down's weight needs.
    """
    model = of(Block, 1)
    optimizer = AdamA(model.parameters(), lr=1e-2)
    run, x = fused(own(square), optimizer=optimizer, recompute="cheap"), rows()

    def step() -> None:
        run(model, x).backward()
        optimizer.step()

    step()  # makes the optimizer's state
    plan = measured_as_planned(step)
    [(problem, _)] = roam.report().step.planned
    over = {problem.buffers[b].size for b in plan.reuse}
    assert LARGE in over


# ---- the caches' keys ----


def test_the_key_changes_with_the_options() -> None:
    one, other = Partitioner(CheapRecompute(), None), Partitioner(CheapRecompute(5), None)
    assert one.uuid() == Partitioner(CheapRecompute(), None).uuid()
    assert one.uuid() != other.uuid()


def test_nothing_is_set_if_nothing_is_asked() -> None:
    assert partition(None, splits=False) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("gpt2", 10_437_668, 6_509_604),
        ("llama", 5_277_732, 3_708_964),
        ("bert", 9_638_916, 6_104_068),
    ],
)
def test_models(name: str, before: int, after: int) -> None:
    """With dropout, but for llama: nearly all gradients have the same bits."""
    found = []
    for options, expected in (({}, before), ({"recompute": "cheap"}, after)):
        torch._dynamo.reset()
        roam.reset_report()
        model, batch = zoo.TINY[name].build(), zoo.TINY[name].batch()
        run = fused(own(zoo.loss), **options)
        found.append(trained(model, run, batch))

        def step(model: nn.Module = model, run: Any = run, batch: Any = batch) -> None:
            run(model, batch).backward()
            model.zero_grad(set_to_none=True)

        measured_as_planned(step)
        [(problem, _)] = roam.report().step.planned
        assert sum(b.size for b in problem.buffers if b.kind is Kind.SAVED) == expected
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
