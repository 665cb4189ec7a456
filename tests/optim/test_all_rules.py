"""Every optimizer against its oracle, over odd shapes; its plan, its checkpoint, its refusals.

A new optimizer is a row of CASES here.
"""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam import optim
from roam.core.errors import HyperparameterError, StateMismatchError
from roam.optim.blocks import blocks
from roam.optim.fold import AccumulatingRule, State, StateSpec, Turn
from roam.optim.folding import FoldingOptimizer
from roam.optim.scratch import SCALARS
from roam.runtime.stored_tensor import StoredTensor
from tests.helpers import unfused
from tests.optim import oracles
from tests.optim.oracles import InFloat64
from tests.runtime.faults import on_disk

SHAPES = ((11, 4), (3, 2, 3, 3), (5,), (), (1, 7), (8, 6), (6, 8), (9, 2), (0, 3))
STEPS = 20


@dataclass(frozen=True)
class Case:
    """One optimizer of roam and what it has to be equal to.

    Attributes:
        make: of groups and values.
        oracle: of groups with all values, the torch optimizer or the formula.
        values: of the constructor.
        group: of the second group.
        bits: whether mode "release" has the oracle's bits.
        summed: values for which accumulation is exact; None if it never is.
        worst: values with which every step takes as much as is planned for.
    """

    make: type[FoldingOptimizer]
    oracle: Callable[[list[dict[str, Any]]], Any]
    values: dict[str, Any] = field(default_factory=dict)
    group: dict[str, Any] = field(default_factory=lambda: {"lr": 3e-2, "weight_decay": 0.0})
    bits: bool = False
    summed: dict[str, Any] | None = None
    worst: dict[str, Any] = field(default_factory=dict)


def formula(one: oracles.Formula) -> Callable[[list[dict[str, Any]]], InFloat64]:
    return partial(InFloat64, formula=one)


def torchs(make: Any, *names: str, **more: Any) -> Callable[[list[dict[str, Any]]], Any]:
    """Of torch, with the values of these names from our groups."""

    def build(groups: list[dict[str, Any]]) -> Any:
        half = groups[0]["params"][0].dtype is torch.bfloat16
        how = {"foreach": False} if half and make is torch.optim.SGD else more
        return make([{k: g[k] for k in ("params", "lr", *names)} for g in groups], **how)

    return build


class Several:
    """Torch's optimizers of several groups, as one."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        muon = torchs(torch.optim.Muon, "weight_decay", "momentum", "nesterov", "adjust_lr_fn")
        adamw = torchs(torch.optim.AdamW, "weight_decay", "betas", "eps", fused=True)
        makes = {"Muon": muon, "AdamW": adamw}
        self.parts = [makes[group["rule"]]([group]) for group in groups]
        self.param_groups = [part.param_groups[0] for part in self.parts]

    def step(self) -> None:
        for part in self.parts:
            part.step()


@dataclass(frozen=True)
class ToyRule(AccumulatingRule):
    """The sign of the mini-batch's gradient: what a new optimizer takes."""

    lr: float | Tensor = 1e-3

    @property
    def elementwise(self) -> bool:
        return True

    def __post_init__(self) -> None:
        self._require(lr=bool(self.lr >= 0))

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        return (StateSpec.like("sum", param),)

    def decay(self, state: State, param: Tensor, step: int) -> None:
        state["sum"].zero_()

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        state["sum"].add_(grad, alpha=at.scale)

    def apply(self, state: State, param: Tensor, step: int) -> None:
        for p, s in blocks(param, state["sum"]):
            p.add_(s.sign(), alpha=-float(self.lr))


class Toy(FoldingOptimizer):
    rule = ToyRule


SGD_VALUES = ("momentum", "dampening", "weight_decay", "nesterov")
ADAM_VALUES = ("betas", "eps", "weight_decay")
CASES = {
    "a toy": Case(
        Toy,
        formula(lambda state, p, g, t, group: p - group["lr"] * g.sign()),
        {"lr": 1e-2},
        summed={},
    ),
    "AdamW": Case(
        optim.AdamW, torchs(torch.optim.AdamW, *ADAM_VALUES, fused=True), {"lr": 1e-2}, bits=True
    ),
    "SGD": Case(
        optim.SGD,
        torchs(torch.optim.SGD, *SGD_VALUES, fused=True),
        {"lr": 1e-2, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1},
        bits=True,
        summed={},
    ),
    "SGD, nesterov": Case(
        optim.SGD,
        torchs(torch.optim.SGD, *SGD_VALUES, fused=True),
        {"lr": 1e-2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        bits=True,
        summed={"nesterov": False},
    ),
    "SGD, no momentum": Case(
        optim.SGD,
        torchs(torch.optim.SGD, *SGD_VALUES, fused=True),
        {"weight_decay": 0.1},
        bits=True,
    ),
    "Lion": Case(
        optim.Lion,
        formula(oracles.lion),
        {"lr": 1e-3, "weight_decay": 0.1},
        summed={"betas": (0.95, 0.95)},
    ),
    "Adafactor": Case(
        optim.Adafactor,
        torchs(torch.optim.Adafactor, "beta2_decay", "eps", "d", "weight_decay"),
        {"weight_decay": 0.1},
    ),
    "AdaLomo": Case(optim.AdaLomo, formula(oracles.adalomo), {"weight_decay": 0.1, "lr": 1e-2}),
    "CAME": Case(optim.CAME, formula(oracles.came), {"weight_decay": 0.1, "lr": 1e-3}),
    "GaLore": Case(
        optim.GaLore,
        formula(oracles.galore),
        {"lr": 1e-2, "weight_decay": 0.1, "rank": 2, "update_proj_gap": 8},
        worst={"update_proj_gap": 1},
    ),
    "Muon": Case(
        optim.Muon,
        Several,
        {"lr": 1e-2},
        {"lr": 3e-2, "adjust_lr_fn": "match_rms_adamw"},
        bits=True,
    ),
    "Scion": Case(
        optim.Scion,
        formula(oracles.scion),
        {"lr": 1e-2, "scale": 2.0},
        {"norm": "Sign", "unconstrained": True},
        summed={},
    ),
}
NEAR = {  # what has no oracle: see test_eight_bit
    "AdamW, 8 bits": Case(
        optim.AdamW,
        torchs(torch.optim.AdamW, *ADAM_VALUES, fused=True),
        {"state_dtype": "int8", "weight_remainder": True},
    ),
}
CASES |= NEAR
all_cases = pytest.mark.parametrize("name", CASES)


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def groups_of(case: Case, params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[::2]}, {"params": params[1::2], **case.group}]


def pairs(case: Case, dtype: torch.dtype, **how: Any) -> tuple[Any, Any, list[Any], list[Any]]:
    """Our optimizer and its oracle, of equal parameters."""
    mine, theirs = parameters(dtype), parameters(dtype)
    optimizer = case.make(groups_of(case, mine), **{**case.values, **how})
    twins = dict(zip(mine, theirs, strict=True))
    groups = [
        {**group, "params": [twins[p] for p in group["params"] if p.numel()]}
        for group in optimizer.param_groups
    ]
    return optimizer, case.oracle(groups), mine, theirs


def train(optimizer: Any, oracle: Any, mine: list[Any], theirs: list[Any]) -> None:
    """STEPS mini-batches with a schedule. The oracle gets the mean of the micro-batches."""
    generator = torch.Generator().manual_seed(1)
    rates = [group["lr"] for group in optimizer.param_groups]
    for t in range(STEPS):
        for some in (optimizer.param_groups, oracle.param_groups):
            for group, rate in zip(some, rates, strict=True):
                group["lr"] = rate * (1 - t / STEPS)
        sums: list[Tensor | float] = [0.0] * len(mine)
        for _ in range(n := optimizer.micro_batches):
            for i, p in enumerate(mine):
                grad = torch.randn(p.shape, generator=generator).to(p.dtype)
                optimizer.absorb(p, grad)
                sums[i] = sums[i] + grad.to(torch.promote_types(p.dtype, torch.float32))
        for q, total in zip(theirs, sums, strict=True):
            q.grad = (total / n).to(q.dtype)
        optimizer.step()
        oracle.step()


@pytest.mark.parametrize("name", [name for name in CASES if name not in NEAR])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_release_is_its_oracle(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    optimizer, oracle, mine, theirs = pairs(case, dtype)
    train(optimizer, oracle, mine, theirs)
    for p, q in zip(mine, theirs, strict=True):
        if case.bits and (dtype is torch.float32 or case.make is not optim.SGD):
            assert torch.equal(p, q), p.shape
        else:
            far = 1e-4 if dtype is torch.float32 else 0.1
            assert torch.allclose(p, q, rtol=far, atol=far * 0.1), p.shape


@pytest.mark.parametrize(
    "name", [name for name, c in CASES.items() if c.summed is not None and name not in NEAR]
)
def test_accumulation_is_its_oracle_of_the_mean_gradient(name: str) -> None:
    case = CASES[name]
    optimizer, oracle, mine, theirs = pairs(
        case, torch.float32, mode="accumulate", micro_batches=4, **(case.summed or {})
    )
    train(optimizer, oracle, mine, theirs)
    far = 3e-2 if name == "Scion" else 1e-4  # it iterates in bfloat16
    wrong = [
        (p - q).abs().gt(far * (1 + q.abs())).float().mean().nan_to_num()
        for p, q in zip(mine, theirs, strict=True)
    ]
    assert max(wrong) <= 0.1  # a sign of almost nothing may be another
    assert all(p.isfinite().all() for p in mine)


@all_cases
def test_what_cannot_accumulate_says_why(name: str) -> None:
    case = CASES[name]
    optimizer, *_ = pairs(case, torch.float32)
    rules = [optimizer.rule_of(p) for p in parameters(torch.float32)[:0]] or [
        optimizer.rule_of(p) for _, p in optimizer.named()
    ]
    for reason in {rule.release_only for rule in rules} - {""}:
        with pytest.raises(HyperparameterError, match="cannot accumulate") as caught:
            pairs(case, torch.float32, mode="accumulate", micro_batches=2)
        assert reason in str(caught.value)
    assert all(isinstance(rule, AccumulatingRule) or rule.release_only for rule in rules)


@all_cases
@pytest.mark.parametrize("shape", [(300, 40), (40, 300), (300,)])
def test_what_an_update_allocates_is_known(name: str, shape: tuple[int, ...]) -> None:
    case = CASES[name]
    p, grad = nn.Parameter(torch.ones(shape)), torch.ones(shape)
    optimizer = case.make([p], **{**case.values, **case.worst})
    optimizer.state_of(p)
    found = roam.measure_peak(lambda: optimizer.absorb(p, grad)).peak
    assert 0 <= found - optimizer.scratch(p, grad) <= SCALARS


class Chain(nn.Module):
    """A layer for each optimizer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(40, 40) for _ in CASES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x.square().mean()


@pytest.mark.usefixtures("everything_placed")
def test_one_graph_folds_for_all_of_them() -> None:
    """As planned, and with the bits of the hooks."""
    models, x = (Chain(), Chain()), torch.randn(7, 40)
    for model in models:
        optimizers = [
            case.make(layer.parameters(), **{**case.values, **case.worst})
            for case, layer in zip(CASES.values(), model.layers, strict=True)
        ]
        run = unfused(model, optimizer=optimizers[0]) if model is models[0] else model

        def step(run: Any = run, optimizers: Any = optimizers) -> None:
            run(x).backward()
            for optimizer in optimizers:
                optimizer.step()

        step()
        if model is models[0]:
            plan = roam.report().graphs[-1].plan
            assert plan is not None
            assert not roam.report().unfolded
            assert abs(roam.measure_peak(step).peak - plan.peak) <= SCALARS
        else:
            step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)


@all_cases
def test_a_checkpoint_changes_nothing(name: str) -> None:
    case = CASES[name]
    dtype = torch.bfloat16  # torch casts what it loads to the parameter's dtype
    optimizer, oracle, mine, theirs = pairs(case, dtype)
    train(optimizer, oracle, mine, theirs)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed, _, own, _ = pairs(case, dtype)
    for p, q in zip(own, mine, strict=True):
        p.data.copy_(q)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for q in mine:
        grad = torch.ones_like(q)
        optimizer.absorb(q, grad)
    for p in own:
        resumed.absorb(p, torch.ones_like(p))
    for p, q in zip(own, mine, strict=True):
        assert torch.equal(p, q)
        for key, value in optimizer.state[q].items():
            assert torch.equal(resumed.state[p][key], value)
            assert resumed.state[p][key].dtype == value.dtype


@all_cases
def test_a_state_dict_of_something_else_names_the_key(name: str) -> None:
    case = CASES[name]
    optimizer, *_ = pairs(case, torch.float32)
    _, p = next(iter(optimizer.named()))
    wanted = optimizer.spec(p)[0].name
    saved = optimizer.state_dict()
    saved["state"] = {0: {"other": torch.zeros(p.shape), "step": torch.ones(())}}
    if wanted == "step":
        return  # there is no state that could be missing
    with pytest.raises(StateMismatchError, match=wanted):
        optimizer.load_state_dict(saved)


def test_constructors_show_their_arguments() -> None:
    names = [*inspect.signature(optim.Lion).parameters]
    assert names[:5] == ["params", "lr", "betas", "weight_decay", "mode"]
    with pytest.raises(TypeError, match="beta"):
        optim.Lion([nn.Parameter(torch.ones(1))], beta=0.9)


@pytest.mark.parametrize("case", [c for c in CASES.values() if "lr" in c.values])
def test_a_rate_below_nothing_is_refused(case: Case) -> None:
    with pytest.raises(HyperparameterError, match="lr=-1"):
        case.make(parameters(torch.float32), lr=-1.0)


@all_cases
def test_states_in_a_file_have_the_same_bits(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    there, _, stored, _ = pairs(case, torch.float32)
    here, _, mine, _ = pairs(case, torch.float32)
    there.keep_states_in(roam.OffloadTo(str(on_disk(tmp_path)), write=1e9, smallest=64))
    for step in range(3):
        for params, optimizer in ((stored, there), (mine, here)):
            generator = torch.Generator().manual_seed(step)
            for p in params:
                optimizer.absorb(p, torch.randn(p.shape, generator=generator))
            optimizer.step()
    assert all(map(torch.equal, stored, mine))
    if any(spec.bytes >= 64 for p in mine for spec in here.spec(p)):
        assert any(isinstance(x, StoredTensor) for s in there.state.values() for x in s.values())


@pytest.mark.parametrize("name", ["SGD", "SGD, nesterov", "Adafactor", "Muon"])
def test_a_run_of_torchs_is_taken_up_and_given_back(name: str) -> None:
    case = CASES[name]
    make: Any = getattr(torch.optim, case.make.__name__)
    shapes = [(6, 8), (9, 2)] if name == "Muon" else [(6, 8), (5,)]
    params = [[nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2)]
    mine, theirs = case.make(params[0], **case.values), make(params[1], **case.values)
    for step in range(6):
        if step == 2:
            mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
        if step == 4:
            theirs = make(params[1], **case.values)
            theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
        generator = torch.Generator().manual_seed(step)
        for p, q in zip(*params, strict=True):
            q.grad = torch.randn(q.shape, generator=generator)
            if step >= 2:
                mine.absorb(p, q.grad)
        mine.step()
        theirs.step()
        if step == 1:
            for p, q in zip(*params, strict=True):
                p.data.copy_(q)
    for p, q in zip(*params, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)
