"""SlimAdamA against its formulas in float64, and what it saves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import roam
from roam.bench.zoo import TINY, loss
from roam.core.errors import HyperparameterError, StateMismatchError
from roam.optim import AdamA, AdamMini, SlimAdamA, mini_rules, static_rules
from roam.optim.blocks import block_size
from roam.optim.means import mean_square
from tests.optim.reference import (
    GOOD,
    Reference,
    backward,
    batches,
    close,
    mini_batches,
    mlp,
    same_parameters,
    twin,
)

RULES: dict[str, tuple[int, ...]] = {"0.weight": (1,), "2.weight": (0,), "2.bias": (0,)}


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("how", [{}, {"batch_invariant": True}, {"update_clip": 0.5}])
@pytest.mark.parametrize("rules", [RULES, {"0.weight": (0, 1), "2.weight": ()}])
def test_it_is_its_formulas(n: int, how: dict[str, Any], rules: dict[str, tuple[int, ...]]) -> None:
    model = mlp(torch.float64)
    clip, invariant = how.get("update_clip"), how.get("batch_invariant", False)
    references = {
        name: Reference(p, dims=rules.get(name, ()), invariant=invariant, update_clip=clip, **GOOD)
        for name, p in model.named_parameters()
    }
    both: dict[str, Any] = {"mode": "accumulate", "micro_batches": n} if n > 1 else {}
    optimizer = SlimAdamA(model.named_parameters(), rules, **both, **how, **GOOD)
    for grads in mini_batches(model, optimizer, n):
        for name, p in model.named_parameters():
            r, state = references[name], optimizer.state_of(p)
            r.step([g[name] for g in grads])
            for found, expected in (
                (state["exp_avg"], r.m),
                (state["exp_avg_sq"], r.v),
                (p, r.param),
            ):
                assert found.shape == expected.shape
                assert close(found, expected)


def test_one_micro_batch_is_release_bit_for_bit() -> None:
    a = mlp()
    b = twin(a)
    rules = {name: (0,) for name, _ in a.named_parameters()}
    one = SlimAdamA(a.named_parameters(), rules, **GOOD)
    two = SlimAdamA(b.named_parameters(), rules, mode="accumulate", **GOOD)
    for x in batches(5):
        for model, optimizer in ((a, one), (b, two)):
            backward(model, x)
            optimizer.step()
    same_parameters(a, b)


def test_without_rules_it_is_adama() -> None:
    a = mlp()
    b = twin(a)
    one, two = SlimAdamA(a.named_parameters(), {}), AdamA(b.parameters())
    for x in batches(5):
        for model, optimizer in ((a, one), (b, two)):
            backward(model, x)
            optimizer.step()
    same_parameters(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_means_are_taken_in_float32(dtype: torch.dtype) -> None:
    """Squares of 1e-4 are nothing in float16, and 4096 of them no sum in bfloat16."""
    x = torch.full((4096, 2), 1e-4).to(dtype)
    found = mean_square(x, (1, 2))
    assert found.dtype == torch.float32
    assert torch.allclose(found, x.float().square().mean(0, keepdim=True))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4).flatmap(
        lambda shape: st.tuples(
            st.just(tuple(shape)), st.sets(st.integers(0, len(shape) - 1), min_size=1)
        )
    )
)
def test_mean_square(case: tuple[tuple[int, ...], set[int]]) -> None:
    shape, dims = case
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    small = tuple(1 if d in dims else n for d, n in enumerate(shape))
    assume(small != shape)
    expected = x.square().mean(tuple(dims), keepdim=True).nan_to_num()  # of nothing: 0
    assert torch.allclose(mean_square(x, small), expected, rtol=1e-13)


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1)])
def test_the_squares_are_made_in_blocks(dims: tuple[int, ...]) -> None:
    """No second gradient is allocated, and `scratch` says what is."""
    p = nn.Parameter(torch.randn(64, block_size(torch.empty(())) // 16))
    optimizer, grad = SlimAdamA([("p", p)], {"p": dims}), torch.randn_like(p)
    optimizer.state_of(p)
    found = roam.measure_peak(lambda: optimizer.absorb(p, grad)).peak
    assert found < p.nbytes // 2
    assert 0 <= optimizer.scratch(p, grad) - found < block_size(p)
    state = optimizer.state_of(p)
    expected = 1e-3 * grad.square().mean(dims, keepdim=True)
    assert torch.allclose(state["exp_avg_sq"], expected)


def test_the_static_rules_save_98_percent_on_gpt2_small() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    rules = static_rules(model)
    slim = SlimAdamA(model.named_parameters(), rules)
    sizes = {s.name: 0 for s in slim.spec(model.transformer.wte.weight)}
    for p in model.parameters():
        for spec in slim.spec(p):
            sizes[spec.name] += spec.bytes
    parameters = sum(p.nbytes for p in model.parameters())
    assert sizes["exp_avg"] == parameters
    assert sizes["exp_avg_sq"] <= 0.02 * parameters
    assert rules.saved == pytest.approx(1 - sizes["exp_avg_sq"] / parameters)


@pytest.mark.parametrize("how", [{}, {"mode": "accumulate", "micro_batches": 2}])
def test_it_trains(how: dict[str, Any]) -> None:
    entry = TINY["gpt2"]
    model, batch = entry.build().eval(), entry.batch()
    optimizer = SlimAdamA(model.named_parameters(), static_rules(model), lr=3e-3, **how)
    losses = []
    for i in range(20):
        found = loss(model, batch)
        losses.append(float(found.detach()))
        found.backward()
        if (i + 1) % optimizer.micro_batches == 0:
            optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_state_dict_and_back() -> None:
    a = mlp()
    one = SlimAdamA(a.named_parameters(), RULES, lr=1e-2)
    for x in batches(3):
        backward(a, x)
        one.step()
    b = twin(a)
    two = SlimAdamA(b.named_parameters(), RULES)
    two.load_state_dict(one.state_dict())
    assert two.state_of(b[0].weight)["exp_avg_sq"].shape == (10, 1)
    with pytest.raises(StateMismatchError, match=r"0\.weight needs exp_avg_sq of shape \[10, 6\]"):
        AdamA(b.named_parameters()).load_state_dict(one.state_dict())


def test_a_compiled_models_names_are_the_models() -> None:
    model = mlp()
    compiled = torch.compile(model, backend="eager")
    optimizer = SlimAdamA(compiled.named_parameters(), RULES)
    assert optimizer.spec(model[0].weight)[1].shape == (10, 1)


def test_rules_need_names_that_are_there() -> None:
    with pytest.raises(HyperparameterError, match="named_parameters"):
        SlimAdamA(mlp().parameters(), RULES)
    with pytest.raises(HyperparameterError, match=r"head.*0\.weight.*another model"):
        SlimAdamA(mlp().named_parameters(), {"head.weight": (0,)})
    with pytest.raises(HyperparameterError, match=r"0\.bias.*\[1\].*\[10\]"):
        SlimAdamA(mlp().named_parameters(), {"0.bias": (1,)})


class Attention(nn.Module):
    """Of two heads, with names as Llama has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.v_proj = nn.Linear(6, 8, bias=False), nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.q_proj(x).sin() * self.v_proj(x))


@pytest.mark.parametrize("n", [1, 4])
def test_adam_mini_shares_by_head_and_by_output(n: int) -> None:
    model = Attention().double()
    heads = 2
    views = {"q_proj.weight": (heads, -1), "v_proj.weight": (8, 6)}
    references = {
        name: Reference(
            p.view(views.get(name, p.shape)), dims=(1,) if name in views else (), **GOOD
        )
        for name, p in model.named_parameters()
    }
    how: dict[str, Any] = {"mode": "accumulate", "micro_batches": n} if n > 1 else {}
    optimizer = AdamMini(model.named_parameters(), mini_rules(model, heads), **how, **GOOD)
    for grads in mini_batches(model, optimizer, n):
        for name, p in model.named_parameters():
            r = references[name]
            r.step([g[name].view(r.param.shape) for g in grads])
            assert close(p.view(r.param.shape), r.param)
            assert optimizer.state_of(p)["exp_avg_sq"].shape == r.v.shape
    with pytest.raises(HyperparameterError, match=r"q_proj\.weight is 2 heads.*\[7, 6\]"):
        AdamMini([("q_proj.weight", nn.Parameter(torch.ones(7, 6)))], mini_rules(model, heads))
