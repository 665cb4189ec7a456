"""Clipping by a norm in the folds: whose norm it is, and that it is that one."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam import optim
from roam.core.errors import HyperparameterError
from roam.optim.fold import Turn
from tests.helpers import unfused

SHAPES = ((4, 6), (5,), ())
STEPS = 6


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]


def gradients(step: int) -> list[Tensor]:
    """Of lengths that differ from step to step: some are clipped, some are not."""
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(s, generator=generator) * (step % 3) for s in SHAPES]


def norm(some: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in some))


@pytest.mark.parametrize("by", ["previous step", "tensor"])
@pytest.mark.parametrize("make", [optim.AdamW, optim.SGD], ids=["AdamW", "SGD"])
def test_released_gradients_are_clipped(by: Any, make: Any) -> None:
    mine, theirs = parameters(), parameters()
    how = {"lr": 0.1, "momentum": 0.9} if make is optim.SGD else {"lr": 0.1}
    optimizer = make(mine, max_norm=2.0, clip_by=by, **how)
    expected = (torch.optim.SGD if make is optim.SGD else torch.optim.AdamW)(theirs, **how)
    before: list[Tensor] = []
    factors = set()
    for step in range(STEPS):
        if step == STEPS // 2:  # a checkpoint knows the norm of the step before
            other = make(mine, max_norm=2.0, clip_by=by, **how)
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            optimizer = other
        found = gradients(step)
        for p, q, g in zip(mine, theirs, found, strict=True):
            length = norm([g] if by == "tensor" else before)
            factors.add(min(1.0, 2.0 / (length + 1e-6)))
            optimizer.absorb(p, g)
            q.grad = g * min(1.0, 2.0 / (length + 1e-6))
        optimizer.step()
        expected.step()
        before = found
    assert 1.0 in factors
    assert min(factors) < 0.6
    for p, q in zip(mine, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"state_dtype": "int8"}], ids=["float", "int8"])
def test_accumulation_clips_by_the_momentum(how: dict[str, Any]) -> None:
    """With β1 = 0 that is the gradient of the mini-batch; the weight decay is not clipped."""
    mine, theirs = parameters(), parameters()
    how |= {"lr": 0.1, "betas": (0.0, 0.9), "mode": "accumulate", "micro_batches": 2}
    optimizer = optim.AdamA(mine, max_norm=1.0, weight_decay=0.5, **how)
    free = optim.AdamA(theirs, weight_decay=0.5, **how)
    start = [p.detach().clone() for p in mine]
    found = gradients(1), gradients(4)
    for some in (mine, theirs):
        for grads in found:
            for p, g in zip(some, grads, strict=True):
                (optimizer if some is mine else free).absorb(p, g)
    optimizer.step()
    free.step()
    mean = [(a + b) / 2 for a, b in zip(*found, strict=True)]
    factor = 1 / norm(mean)
    assert factor < 0.9
    for p, q, s in zip(mine, theirs, start, strict=True):
        kept = s * (1 - 0.1 * 0.5)
        assert torch.allclose(p - kept, factor * (q - kept), rtol=0.03, atol=1e-4)


def test_a_momentum_of_infinite_norm_moves_nothing() -> None:
    """Its factor is 0, which was taken for no limit."""
    param = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([param], lr=1.0, momentum=0.9, mode="accumulate", max_norm=1.0)
    optimizer.absorb(param, torch.tensor([3e20, 4e20]))  # whose squares are infinite in float32
    optimizer.step()
    assert torch.equal(param, torch.ones(2))


@pytest.mark.parametrize("dampening", [0.0, 0.9])
def test_the_norm_of_a_momentum_is_that_of_the_gradients_in_it(dampening: float) -> None:
    """The same gradient again and again has its own norm, however much of it a step adds.

    Dampened gradients were counted in full, so that no step was clipped.
    """
    rule = optim.SGD.rule(momentum=0.9, dampening=dampening)
    param, grad = torch.zeros(2), torch.tensor([3.0, 4.0])
    state = {"momentum_buffer": torch.zeros(2)}
    for step in (1, 2, 3):
        rule.decay(state, param, step)
        rule.fold(state, param, grad, Turn(step, 0, 1.0))
        assert float(rule.squared_momentum(state, step)) == pytest.approx(25.0)


def test_a_norm_of_an_earlier_step_does_not_count() -> None:
    a, b = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = optim.SGD([a, b], lr=1.0, max_norm=1.0)
    for param, grad in ((a, 3.0), (b, 4.0)):
        optimizer.absorb(param, torch.tensor([grad]))
    optimizer.step()
    optimizer.absorb(a, torch.tensor([3.0]))  # and b gets no gradient
    optimizer.step()
    before = float(a.detach())
    optimizer.absorb(a, torch.tensor([3.0]))
    assert before - float(a.detach()) == pytest.approx(3.0 / 3.0, rel=1e-4)


def test_a_loaded_norm_keeps_its_dtype() -> None:
    """torch casts loaded states to the parameter's dtype, and the next step refused the norm."""
    saved, loaded = (nn.Parameter(torch.ones(3, dtype=torch.bfloat16)) for _ in range(2))
    optimizer = optim.AdamA([saved], max_norm=1.0)
    optimizer.absorb(saved, torch.full((3,), 4.1, dtype=torch.bfloat16))
    optimizer.step()
    other = optim.AdamA([loaded], max_norm=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    norm = other.state[loaded]["grad_norm"]
    assert (norm.dtype, norm) == (torch.float32, optimizer.state[saved]["grad_norm"])
    other.absorb(loaded, torch.ones(3, dtype=torch.bfloat16))
    other.step()


def test_what_cannot_clip_says_so() -> None:
    how: dict[str, Any] = {"mode": "accumulate", "betas": (0.9, 0.9), "max_norm": 1.0}
    with pytest.raises(HyperparameterError, match="LionRule has none whose length matters"):
        optim.Lion(parameters(), **how)
    with pytest.raises(HyperparameterError, match="max_norm=0"):
        optim.AdamW(parameters(), max_norm=0.0)
    with pytest.raises(HyperparameterError, match="clip_by='step'"):
        optim.AdamW(parameters(), max_norm=1.0, clip_by="step")


def test_a_refused_limit_is_not_kept() -> None:
    """It was, so that all later folds were refused, too."""
    param = nn.Parameter(torch.ones(2))
    optimizer = optim.Lion([param], mode="accumulate", betas=(0.9, 0.9))
    with pytest.raises(HyperparameterError, match="LionRule"):
        optimizer.max_norm = 1.0
    assert optimizer.max_norm is None
    optimizer.absorb(param, torch.ones(2))
    optimizer.step()
    assert (param < 1).all()


@pytest.mark.usefixtures("everything_placed")
def test_the_copy_of_a_gradient_is_planned() -> None:
    model = nn.Linear(300, 40)
    optimizer = optim.AdamW(model.parameters(), max_norm=1.0)
    run = unfused(lambda x: model(x).square().mean(), optimizer=optimizer)
    x = torch.randn(7, 300)

    def step() -> None:
        run(x).backward()
        optimizer.step()

    step()
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    assert abs(roam.measure_peak(step).peak - plan.peak) <= 64  # the loss and its gradient
