"""The option "split" with ATen's kernels: the same gradients, without the logits in one piece."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name that everybody knows
from torch import Tensor, nn

import roam
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.optim import AdamA
from roam.passes.rewrites.split import Split
from roam.passes.rewrites.table import SPLITS
from tests.helpers import assert_counts, some_slow, unfused

ROWS, WIDTH, CLASSES, BLOCKS = 256, 16, 1000, 8
HIDDEN = ROWS * WIDTH * 4  # bytes
WEIGHT = CLASSES * WIDTH * 4
LOGITS = ROWS * CLASSES * 4
BLOCK = LOGITS // BLOCKS
SCALE = 3.0  # what the loss is multiplied by: a tangent other than 1
Loss = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Split(amplifies=2.0, smallest=BLOCK, fewest_rows=ROWS // BLOCKS)
    monkeypatch.setitem(SPLITS, ("aten", True), small)


def _one_hot(y: Tensor, z: Tensor) -> Tensor:
    return F.one_hot(y, CLASSES).to(z.dtype)


def _z_loss(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y) + 1e-3 * z.logsumexp(-1).square().mean()


def _weights(z: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, CLASSES, dtype=z.dtype)


LOSSES: dict[str, Loss] = {
    "plain": F.cross_entropy,
    "each row": lambda z, y: F.cross_entropy(z, y, reduction="none").square().mean(),
    "ignored": lambda z, y: F.cross_entropy(z, y, ignore_index=3),
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    "class weights": lambda z, y: F.cross_entropy(z, y, _weights(z)),
    "soft cap": lambda z, y: F.cross_entropy(30 * torch.tanh(z / 30), y),
    "z-loss": _z_loss,
    "squared": lambda z, y: F.mse_loss(z, _one_hot(y, z)),
    "binary": lambda z, y: F.binary_cross_entropy_with_logits(z, _one_hot(y, z)),
    "divergence": lambda z, y: F.kl_div(z.log_softmax(-1), _one_hot(y, z), reduction="batchmean"),
}
QUICK = ("plain", "ignored", "soft cap", "divergence")


class Head(nn.Module):
    """Two layers: of the hidden state and, without a bias, of the vocabulary."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES, bias=False)
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.head(self.body(x)), y)


def batch() -> tuple[Tensor, Tensor]:
    of = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (ROWS,), generator=of)
    y[::7] = 3
    return torch.randn(ROWS, WIDTH, generator=of), y


def stepped(model: nn.Module, compile_: Callable[[Any], Any]) -> Callable[[], None]:
    x, y = batch()
    run = compile_(model)

    def step() -> None:
        model.zero_grad()
        (SCALE * run(x.to(next(model.parameters()).dtype), y)).backward()

    return step


def latest() -> tuple[Problem, Plan]:
    graph = roam.report().graphs[-1]
    assert graph.problem is not None
    assert graph.plan is not None
    return graph.problem, graph.plan


def peak(step: Callable[[], None]) -> int:
    """The planned peak of a step that was run before, which is also the measured one."""
    measured = roam.measure_peak(step, warm_up=step).peak
    _, plan = latest()
    assert abs(plan.peak - measured) <= 16  # bytes of Python's numbers in a loss
    return plan.peak


def blocks() -> int:
    problem, _ = latest()
    numbers = [int(op.name.partition("#")[2] or 0) for op in problem.ops]
    return max(numbers)


def errors(model: nn.Module, exact: nn.Module) -> list[float]:
    """Of each gradient, relative."""
    pairs = zip(model.parameters(), exact.parameters(), strict=True)
    grads = [(p.grad, q.grad) for p, q in pairs]
    return [float((p.double() - q).norm() / q.norm()) for p, q in grads if p is not None]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", some_slow({n: n for n in LOSSES}, QUICK))
def test_the_gradients_and_the_peak(name: str) -> None:
    model = Head(LOSSES[name])
    exact = copy.deepcopy(model).double()
    stepped(exact, lambda m: m)()
    split = stepped(model, lambda m: unfused(m, split=True))
    split()
    assert blocks() == BLOCKS
    assert peak(split) < WEIGHT + 4 * BLOCK + 4 * HIDDEN < LOGITS
    assert_counts(planned=1)
    found = errors(model, exact)
    assert len(found) == 3
    assert max(found) < 1e-6


def test_in_one_piece_logits_exist_twice() -> None:
    """What the other tests compare with."""
    whole = stepped(Head(F.cross_entropy), unfused)
    whole()
    assert blocks() == 0
    assert peak(whole) > 1.9 * LOGITS


def test_the_peak_of_cross_entropy_is_the_weights_gradient_and_two_blocks() -> None:
    """The second block is the one inside of the backward of cross entropy."""
    step = stepped(Head(F.cross_entropy), lambda m: unfused(m, split=True))
    step()
    assert WEIGHT + 2 * BLOCK < peak(step) < WEIGHT + 2 * BLOCK + 4 * HIDDEN


def test_one_gradient_of_the_weight_exists() -> None:
    """Each block adds to it, and the backward multiplies it by the tangent in its place."""
    stepped(Head(F.cross_entropy), lambda m: unfused(m, split=True))()
    problem, plan = latest()
    made = [b for op in problem.ops for b in op.creates if problem.buffers[b].size == WEIGHT]
    assert len(made) == BLOCKS + 1
    assert [plan.reuse.get(b) for b in made] == [None, *made[:-1]]


def test_the_backward_of_cross_entropy_stays_one_op() -> None:
    stepped(Head(F.cross_entropy), lambda m: unfused(m, split=True))()
    problem, _ = latest()
    joined = [op.name for op in problem.ops if op.name.startswith("cross_entropy_backward")]
    assert [name.partition("#")[2] for name in joined] == [str(k + 1) for k in range(BLOCKS)]


@pytest.mark.parametrize("options", [{}, {"split": False}], ids=str)
def test_without_the_option_bits_stay(options: dict[str, Any]) -> None:
    model = Head(F.cross_entropy)
    other = copy.deepcopy(model)
    stepped(model, lambda m: unfused(m, **options))()
    assert blocks() == 0
    stepped(other, lambda m: torch.compile(m, backend="aot_eager"))()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad)


class Returned(Head):
    """Gives the logits to the user too, so that they have to exist whole."""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        logits = self.head(self.body(x))
        return self.loss(logits, y), logits


def test_what_cannot_be_split_is_not_decomposed() -> None:
    model = Returned(F.cross_entropy)
    x, y = batch()
    loss, _ = unfused(model, split=True)(x, y)
    loss.backward()
    problem, _ = latest()
    assert blocks() == 0
    names = [op.name for op in problem.ops]
    assert "nll_loss_forward" in names
    assert not any(name.startswith("gather") for name in names)


def test_two_heads_are_two_groups() -> None:
    """The smaller one decides the peak only when the larger one has been split."""
    torch.manual_seed(0)
    small, large = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, 2 * CLASSES)
    x, y = batch()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(small(x), y) + F.cross_entropy(large(x), y)

    unfused(loss, split=True)(x, y).backward()
    problem, _ = latest()
    labels = {op.name.partition("#")[2] for op in problem.ops}
    assert {"1", "2", "2.1", "2.2"} <= labels


def test_a_kept_graph_runs_without_a_plan_and_gives_the_same() -> None:
    model = Head(F.cross_entropy)
    x, y = batch()
    loss = unfused(model, split=True)(x, y)
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    loss.backward()
    twice = [p.grad for p in model.parameters()]
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(2 * a, b)


def trained(split: bool | None, whole: bool) -> tuple[list[Tensor], int]:
    """The parameters after two steps whose gradients are folded, and the peak."""
    torch._dynamo.reset()
    model = Head(F.cross_entropy)
    x, y = batch()
    optimizer = AdamA(model.parameters(), lr=1e-2)

    def train(run: Callable[..., Tensor]) -> Tensor:
        loss = run(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    if whole:
        step = roam.compile_step(lambda: train(model), optimizer, split=split)
    else:
        run = unfused(model, split=split, optimizer=optimizer)
        step = lambda: train(run)  # noqa: E731
    step()
    step()
    found = [p.detach().clone() for p in model.parameters()]
    return found, peak(step)


@pytest.mark.parametrize("whole", [False, True], ids=["backward", "whole step"])
def test_folded_gradients(whole: bool) -> None:
    expected, high = trained(None, whole)
    assert high > 1.9 * LOGITS
    assert blocks() == 0
    roam.reset_report()
    found, low = trained(True, whole)
    assert blocks() == BLOCKS
    assert low < WEIGHT + 2 * BLOCK + 4 * HIDDEN
    assert_counts(planned=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_loss_of_one_dimension_is_split() -> None:
    """The tangent, reshaped to a number, was taken for an op of the forward: compiling failed."""

    def one_dimension(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y).reshape(1)

    model, (x, y) = Head(one_dimension), batch()
    eager = copy.deepcopy(model)
    unfused(model, split=True)(x, y).backward(torch.full((1,), SCALE))
    eager(x, y).backward(torch.full((1,), SCALE))
    assert blocks() == BLOCKS
    for ours, theirs in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_bfloat16_logits_are_split_into_few_blocks_because_each_sum_is_rounded() -> None:
    def upcast(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z.float(), y)

    model = Head(upcast).bfloat16()
    unsplit, exact = copy.deepcopy(model), copy.deepcopy(model).double()
    exact.loss = F.cross_entropy
    stepped(exact, lambda m: m)()
    stepped(unsplit, unfused)()
    stepped(model, lambda m: unfused(m, split=True))()
    assert blocks() == 4 < BLOCKS
    found, expected = errors(model, exact), errors(unsplit, exact)
    assert all(a <= 1.5 * b for a, b in zip(found, expected, strict=True))
