"""Moments of 8 bits an element and weights of 24: their errors, their bytes, what they train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roam.core.errors import HyperparameterError
from roam.optim import AdamA, SlimAdamA, eight_bit
from roam.optim.eight_bit import GROUP, Piece
from roam.optim.fold import StateSpec, Turn

TURNS = 400


def random(count: int) -> Tensor:
    """Numbers of many sizes, as gradients are."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.exp(2 * torch.randn(count, generator=generator))
    return torch.randn(count, generator=generator) * sizes


def moment(kind: Any, x: Tensor) -> tuple[Piece, dict[str, Tensor]]:
    specs: tuple[StateSpec, ...] = kind("m", x)
    state = {spec.name: spec.make(x) for spec in specs}
    [piece] = eight_bit.pieces(state["m"], x)
    return piece, state


@pytest.mark.parametrize("count", [1, GROUP, 5 * GROUP + 3])
def test_a_first_moment_is_right_on_average(count: int) -> None:
    x = random(count)
    piece, state = moment(eight_bit.signed, x)
    total, farthest = torch.zeros(count), torch.zeros(count)
    for step in range(TURNS):
        noise = piece.noise(x, Turn(step, 0, 1.0))
        eight_bit.write_signed(piece, state, "m", x.clone(), noise)
        found = eight_bit.read_signed(piece, state, "m")
        total += found
        farthest = torch.maximum(farthest, (found - x).abs())
    scale = state["m_scale"].repeat_interleave(GROUP)[:count]
    assert (farthest <= scale * 2 / 127).all()  # a step of φ, which is at most 2/127 apart
    assert ((total / TURNS - x).abs() <= scale * 1e-3).all()


def test_a_second_moment_is_never_lost_and_little_too_large() -> None:
    """The mean of a rounded root squared is v + its variance, at most a quarter of a step²."""
    v = random(5 * GROUP + 3).square()
    piece, state = moment(eight_bit.unsigned, v)
    total = torch.zeros(v.shape)
    for step in range(TURNS):
        noise = piece.noise(v, Turn(step, 1, 1.0))
        eight_bit.write_unsigned(piece, state, "m", v.sqrt(), noise)
        assert (state["m"] > 0).all()
        total += eight_bit.read_unsigned(piece, state, "m").square()
    step2 = (state["m_scale"] / 255).square().repeat_interleave(GROUP)[: len(v)]
    above = total / TURNS - v
    seen = v > step2  # others are taken for one step
    assert (above[seen] >= -0.05 * (step2 + v.sqrt() * step2.sqrt())[seen]).all()
    assert (above[seen] <= 0.25 * step2[seen] + 0.05 * (v.sqrt() * step2.sqrt())[seen]).all()


def test_a_weight_has_eight_bits_more() -> None:
    x = random(4096)
    weight, remainder = x.bfloat16(), torch.zeros(4096, dtype=torch.int8)
    eight_bit.write_weight(weight, remainder, x.clone())
    assert torch.equal(weight, x.bfloat16())
    found = eight_bit.read_weight(weight, remainder)
    assert ((found - x).abs() <= x.abs() * 2**-15).all()  # bfloat16 itself: 2^-9


def test_what_is_too_small_for_a_weight_is_not_lost() -> None:
    weight, remainder = torch.ones(GROUP).bfloat16(), torch.zeros(GROUP, dtype=torch.int8)
    for _ in range(1000):
        exact = eight_bit.read_weight(weight, remainder).add_(2**-14)  # bfloat16 drops 2^-9
        eight_bit.write_weight(weight, remainder, exact)
    found = eight_bit.read_weight(weight, remainder)
    assert torch.allclose(found, torch.full((GROUP,), 1 + 1000 * 2**-14), rtol=0.02)


def trained(slim: bool, n: int, dtype: torch.dtype, **how: Any) -> tuple[float, Any]:
    """The distance to an optimum after 100 steps with noise, from 1 at the start."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(50, 67, generator=generator)
    p = nn.Parameter((target + torch.randn(50, 67, generator=generator)).to(dtype))
    if n > 1:
        how |= {"mode": "accumulate", "micro_batches": n}
    rate = {"lr": 1e-2, "weight_decay": 0.0}
    optimizer = (
        SlimAdamA([("p", p)], {"p": (1,)}, **rate, **how) if slim else AdamA([p], **rate, **how)
    )
    for _ in range(100):
        for _ in range(n):
            noise = 0.5 * torch.randn(50, 67, generator=generator)
            optimizer.absorb(p, (p.detach() - target + noise).to(dtype))
        optimizer.step()
    return float((p.detach() - target).square().mean()), optimizer


@pytest.mark.parametrize("slim", [False, True], ids=["AdamA", "SlimAdamA"])
@pytest.mark.parametrize("n", [1, 4])
def test_it_trains_as_float32_does(slim: bool, n: int) -> None:
    expected, _ = trained(slim, n, torch.float32)
    moments, _ = trained(slim, n, torch.float32, state_dtype="int8")
    weights, optimizer = trained(slim, n, torch.bfloat16, state_dtype="int8", weight_remainder=True)
    assert expected < 0.5
    assert moments == pytest.approx(expected, rel=0.05)
    assert weights == pytest.approx(expected, rel=0.05)
    [p] = optimizer.param_groups[0]["params"]
    total = p.nbytes + sum(spec.bytes for spec in optimizer.spec(p))
    assert total / p.numel() < (4.3 if slim else 5.3)  # FlashOptim's AdamW: 5, and 2 of a gradient


def test_what_has_no_eight_bits() -> None:
    with pytest.raises(HyperparameterError, match="state_dtype=int4"):
        AdamA([nn.Parameter(torch.ones(3))], state_dtype="int4")
    with pytest.raises(HyperparameterError, match="weight_remainder"):
        AdamA([nn.Parameter(torch.ones(3))], weight_remainder=True)
    optimizer = AdamA([nn.Parameter(torch.ones(4, 6)[:, ::2])], state_dtype="int8")
    with pytest.raises(HyperparameterError, match="gaps"):
        optimizer.absorb(optimizer.param_groups[0]["params"][0], torch.ones(4, 3))
