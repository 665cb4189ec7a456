"""Moments of 8 bits an element and weights of 24: their errors, their bytes, what they train."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roam.core.errors import HyperparameterError
from roam.optim import AdamA, SlimAdamA, eight_bit, eight_bit_adam
from roam.optim.eight_bit import GROUP
from roam.optim.fold import Turn
from roam.runtime import one_pass

TURNS = 400


def random(count: int) -> Tensor:
    """Numbers of many sizes, as gradients are."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.exp(2 * torch.randn(count, generator=generator))
    return torch.randn(count, generator=generator) * sizes


def noise(like: Tensor, step: int, micro_batch: int = 0) -> Tensor:
    offset = eight_bit.offset(Turn(step, micro_batch, 1.0), 0)
    return eight_bit.noise(like, torch.tensor(offset))


@pytest.mark.parametrize("shape", [(1, 1), (1, GROUP), (5, GROUP), (2, 3, GROUP)])
def test_a_first_moment_is_right_on_average(shape: tuple[int, ...]) -> None:
    x = random(math.prod(shape)).view(shape)
    total, farthest = torch.zeros(shape), torch.zeros(shape)
    for step in range(TURNS):
        codes, scale = eight_bit.signed_codes(x, noise(x, step))
        found = eight_bit.read_signed(codes, scale)
        total += found
        farthest = torch.maximum(farthest, (found - x).abs())
    assert torch.equal(scale, x.abs().amax(-1, keepdim=True))
    assert (farthest <= scale * 2 / 127).all()  # the largest step of the root: 1 - (126/127)²
    assert ((total / TURNS - x).abs() <= scale * 1e-3).all()


def test_a_second_moment_is_never_lost_and_little_too_large() -> None:
    """The mean of a rounded root squared is v + its variance, at most a quarter of a step²."""
    v = random(5 * GROUP).square().view(5, GROUP)
    total = torch.zeros(v.shape)
    for step in range(TURNS):
        codes, scale = eight_bit.root_codes(v, v.sqrt(), noise(v, step, 1))
        assert (codes > 0).all()
        total += eight_bit.read_square(codes, scale)
    step2 = (scale / 255).square().expand(v.shape)
    above = total / TURNS - v
    seen = v > step2  # others are taken for one step
    assert (above[seen] >= -0.05 * (step2 + v.sqrt() * step2.sqrt())[seen]).all()
    assert (above[seen] <= 0.25 * step2[seen] + 0.05 * (v.sqrt() * step2.sqrt())[seen]).all()


def test_a_weight_has_eight_bits_more() -> None:
    x = torch.cat([random(4096), torch.tensor([0.0, -0.0, 3e38, torch.inf, -torch.inf])])
    weight, remainder = eight_bit.weight_codes(x)
    assert torch.equal(weight, x.bfloat16())
    found = eight_bit.read_weight(weight, remainder)[:-2]
    assert ((found - x[:-2]).abs() <= x[:-2].abs() * 2**-15).all()  # bfloat16 itself: 2^-9


def test_what_is_too_small_for_a_weight_is_not_lost() -> None:
    weight, remainder = torch.ones(GROUP).bfloat16(), torch.zeros(GROUP, dtype=torch.int8)
    for _ in range(1000):
        exact = eight_bit.read_weight(weight, remainder) + 2**-14  # bfloat16 drops 2^-9
        weight, remainder = eight_bit.weight_codes(exact)
    found = eight_bit.read_weight(weight, remainder)
    assert torch.allclose(found, torch.full((GROUP,), 1 + 1000 * 2**-14), rtol=0.02)


@pytest.mark.parametrize("shape", [(130,), (9, 64), (3, 128), (5, 67), (2, 3, 64), (1, 1), (0, 3)])
def test_parts_are_all_elements_with_their_scales(shape: tuple[int, ...]) -> None:
    places = torch.arange(math.prod(shape)).view(shape)
    groups = torch.arange(-(-places.numel() // GROUP))
    for most in (1, 200, 10**6):
        for shared in (places, places[:1], places[..., :1]):
            seen = torch.full(shape, -1)
            for part in eight_bit.parts([seen, places, shared], [groups], most):
                target, own, value = part.tensors
                assert torch.equal(own // GROUP, part.scales[0].expand_as(own))
                assert own.flatten()[0] == part.start
                target.copy_(value)
            assert torch.equal(seen, shared.expand(shape))


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


@pytest.mark.parametrize("mode", ["release", "accumulate"])
def test_rows_of_whole_groups_are_folded_one_after_another(mode: str) -> None:
    """Codes are rounded by other random numbers than those of all rows at once."""
    start = random(6 * 2 * GROUP).view(6, 2 * GROUP)
    mine, whole = (nn.Parameter(start.clone()) for _ in range(2))
    how: dict[str, Any] = {"mode": mode, "state_dtype": "int8", "lr": 1e-2}
    optimizer, other = (AdamA([p], **how) for p in (mine, whole))
    assert optimizer.rule_of(mine).by_rows(mine)
    for step in range(3):
        gradient = random(start.numel()).view_as(start) * (step + 1)
        optimizer.absorb_rows(mine, gradient[4:], 4)
        optimizer.absorb_rows(mine, gradient[:4], 0)
        other.absorb(whole, gradient)
        optimizer.step()
        other.step()
    assert (mine - whole).abs().max() < 0.1 * (mine - start).abs().max()
    for name in ("exp_avg", "exp_avg_sq"):
        scale = other.state[whole][f"{name}_scale"]
        assert torch.allclose(optimizer.state[mine][f"{name}_scale"], scale, rtol=0.05)


def test_rows_that_share_a_group_are_folded_together() -> None:
    for shape, apart in (((4, GROUP), True), ((4, GROUP + 1), False), ((4 * GROUP,), False)):
        param = nn.Parameter(torch.zeros(shape))
        optimizer = AdamA([param], state_dtype="int8")
        assert optimizer.rule_of(param).by_rows(param) == apart


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["moments", "weights", "rows", "columns"])
def test_a_kernel_does_what_the_formula_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last digit of a scale, which may round an element in a million otherwise."""
    dtype = torch.bfloat16 if kind == "weights" else torch.float32
    start = random(512 * 1024).view(512, 1024).to(dtype)
    found: list[list[Tensor]] = []
    for compiles in (True, False):
        monkeypatch.setattr(one_pass, "LARGE", 2**18 if compiles else 2**40)
        p = nn.Parameter(start.clone())
        how: dict[str, Any] = {"state_dtype": "int8", "weight_remainder": kind == "weights"}
        dims = {"rows": (1,), "columns": (0,)}.get(kind)
        optimizer = AdamA([p], **how) if dims is None else SlimAdamA([("p", p)], {"p": dims}, **how)
        version = p._version
        for step in range(3):
            grad = (random(512 * 1024) * (1 + step)).view(512, 1024).to(dtype)
            optimizer.absorb(p, grad)
            optimizer.step()
        assert p._version > version
        state = optimizer.state[p]
        found.append([p.detach(), *(state[s.name] for s in optimizer.states_of(p))])
    assert eight_bit_adam.TURN.compiles
    for one, other in zip(*found, strict=True):
        same = torch.isclose(one.double(), other.double(), rtol=1e-5, atol=1e-6)
        assert (~same).double().mean() < 1e-4


def test_what_has_no_eight_bits() -> None:
    with pytest.raises(HyperparameterError, match="state_dtype=int4"):
        AdamA([nn.Parameter(torch.ones(3))], state_dtype="int4")
    with pytest.raises(HyperparameterError, match="weight_remainder"):
        AdamA([nn.Parameter(torch.ones(3))], weight_remainder=True)
    optimizer = AdamA([nn.Parameter(torch.ones(4, 6)[:, ::2])], state_dtype="int8")
    with pytest.raises(HyperparameterError, match="gaps"):
        optimizer.absorb(optimizer.param_groups[0]["params"][0], torch.ones(4, 3))
