"""Trains the same tiny model with several backends and compares every bit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.errors import UnplannedWarning

ARENAS = ("step", "keep")
Loss = Callable[[Any], Tensor]
both_arenas = pytest.mark.parametrize("arena", ARENAS)


def options(arena: str) -> dict[str, dict[str, object]]:
    """What to hand to torch.compile to get the backend with that arena."""
    return {"options": {"arena": arena}}


def assert_equal(found: Iterable[Any], expected: Iterable[Any]) -> None:
    """Bit for bit: equal type, shape, strides and numbers, NaN in the same places."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            assert a == b, f"number {i}"
            continue
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), f"tensor {i}"
        same = torch.equal(a, b) or torch.equal(a.isnan(), b.isnan())
        assert same, f"tensor {i}: {a} is not {b}"
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), f"tensor {i}: {a} is not {b}"


def flat(result: Any) -> list[Any]:
    """The tensors and numbers in nested tuples, lists and dicts, in order."""
    if isinstance(result, dict):
        return [x for part in result.values() for x in flat(part)]
    if isinstance(result, (tuple, list)):
        return [x for part in result for x in flat(part)]
    return [result]


def total(result: Any) -> Tensor:
    """A loss in which every element of every differentiable output has a weight of its own."""
    parts = [t for t in flat(result) if isinstance(t, Tensor) and t.requires_grad]
    loss = torch.zeros(())
    for t in parts:
        real = torch.view_as_real(t) if t.is_complex() else t
        weight = torch.linspace(0.5, 1.5, max(real.numel(), 1), dtype=real.dtype)[: real.numel()]
        loss = loss + (real.reshape(-1) * weight).sum().float()
    return loss


def train(
    make: Callable[[], nn.Module],
    inputs: tuple[Any, ...],
    steps: int = 2,
    loss: Loss = total,
    **how: Any,
) -> list[Any]:
    """Outputs, losses, gradients and buffers of some steps of SGD; `how` goes to torch.compile.

    Without `how` the model runs as it is.
    """
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = make()
    compiled = torch.compile(model, **how) if how else model
    optimizer = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=1e-3)
    seen: list[Any] = []
    torch.manual_seed(1)
    for _ in range(steps):
        given = copy.deepcopy(inputs)
        result = compiled(*given)
        value = loss(result)
        seen += [x.detach().clone() if isinstance(x, Tensor) else x for x in flat(result)]
        seen.append(value.detach().clone())
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
        with_grad = [x for x in (*model.parameters(), *flat(given)) if isinstance(x, Tensor)]
        seen += [None if x.grad is None else x.grad.clone() for x in with_grad if x.is_leaf]
        seen += [x.detach().clone() for x in flat(given) if isinstance(x, Tensor)]
        optimizer.step()
        optimizer.zero_grad()
        seen += [b.clone() for b in model.buffers()]
    return seen


def check(
    make: Callable[[], nn.Module],
    *inputs: Any,
    planned: int = 1,
    unplanned: int = 0,
    detours: int = 0,
    eager: bool = True,
    arenas: Iterable[str] = ARENAS,
    **how: Any,
) -> None:
    """Trains with roam, in both modes, and without: the bits and the counts must be as said."""
    expected = train(make, inputs, **how, backend="aot_eager")
    if eager:
        assert_equal(expected, train(make, inputs))
    for arena in arenas:
        roam.reset_report()
        with warned(unplanned):
            found = train(make, inputs, **how, backend="roam", **options(arena))
        assert_equal(found, expected)
        assert_counts(planned, unplanned, detours)


@contextmanager
def warned(times: int) -> Iterator[list[str]]:
    """Expects so many warnings about graphs without a plan, and none from out= overloads."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield messages
    messages += [str(w.message) for w in seen if issubclass(w.category, UnplannedWarning)]
    assert len(messages) == times, messages
    assert [str(w.message) for w in seen if "resized" in str(w.message)] == []


def assert_counts(planned: int, unplanned: int = 0, detours: int = 0) -> None:
    report = roam.report()
    counts = (report.planned, report.unplanned, sum(report.detours.values()))
    assert counts == (planned, unplanned, detours), str(report)
