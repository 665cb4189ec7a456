"""Planned offline, on tensors without data: the plan that the backend would run."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.bench.zoo import TINY
from roam.core.errors import OfflineError, OptionError, SizeFormatError
from roam.core.machine import Rates
from roam.core.plan import Plan
from roam.core.problem import Kind, Lane
from roam.core.sizes import parse_size, show_size
from roam.inspect.step_plan import StepPlan
from roam.optim import AdamA
from roam.solvers.offload.timeline import Link
from roam.solvers.simulate.step import simulate
from tests.helpers import mlp, random, unfused

QUICK = ("gpt2",)
SLOW = ("resnet", "bert", "llama", "vit", "clip", "t5", "mobilenetv2", "swin", "bart")
CASES = [
    *((name, True) for name in QUICK),
    *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("gpt2", "resnet")),
    *(pytest.param(name, True, marks=pytest.mark.slow) for name in SLOW),
]


def one_number(out: Mapping[str, Tensor]) -> Tensor:
    if "loss" in out:
        return out["loss"]
    return out["logits" if "logits" in out else "logits_per_image"].square().mean()


def what_counts(plan: Plan) -> tuple[Any, ...]:
    return plan.fingerprint, plan.order, plan.offsets, plan.blocks, plan.peak, plan.lower_bound


def ran() -> list[tuple[Any, ...]]:
    return [what_counts(g.plan) for g in roam.report().graphs if g.plan is not None]


@pytest.mark.parametrize(("name", "fold"), CASES)
def test_planned_offline_is_planned_at_run_time(name: str, fold: bool) -> None:
    model, batch = TINY[name].build(), TINY[name].batch()
    optimizer = AdamA(model.parameters()) if fold else None
    found = roam.plan(model, loss=one_number, optimizer=optimizer, lowering="aten", **batch)
    step = unfused(lambda **b: one_number(model(**b)), optimizer=optimizer)
    step(**batch).backward()
    assert [what_counts(plan) for _, plan in found.planned] == ran()


def test_a_model_on_meta_needs_no_weights() -> None:
    real = mlp(1024)
    with torch.device("meta"):
        model = mlp(1024)
    x = random(5, 8)
    expected = roam.plan(real, x, loss=lambda y: y.sum(), optimizer=AdamA(real.parameters()))
    found = roam.plan(model, x, loss=lambda y: y.sum(), optimizer=AdamA(model.parameters()))
    assert [what_counts(p) for _, p in found.planned] == [
        what_counts(p) for _, p in expected.planned
    ]
    assert all(p.is_meta for p in model.parameters())


def test_nothing_is_left_behind() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    roam.plan(model, random(5, 8), loss=lambda y: y.sum(), optimizer=optimizer)
    assert not optimizer.state  # counted, not made
    assert roam.report().graphs == ()
    assert all(p.grad is None for p in model.parameters())


def test_totals() -> None:
    model = mlp()
    found = roam.plan(
        model, random(5, 8), loss=lambda y: y.sum(), optimizer=AdamA(model.parameters())
    )
    weights = sum(p.nbytes for p in model.parameters())
    kinds = found.persistent_by_kind
    assert kinds[Kind.PARAMETER] == weights
    assert kinds[Kind.STATE] == 2 * weights + 4 * 4
    assert found.total == found.peak + found.persistent
    assert found.lower_bound <= found.peak
    assert sum(found.peak_by_kind.values()) <= found.peak


def test_fits() -> None:
    model = mlp()
    found = roam.plan(model, random(5, 8), loss=lambda y: y.sum())
    assert found.fits(found.total)
    assert not found.fits(found.total - 1)
    assert found.fits(found.total - 1).margin == -1
    assert str(found.fits("1GiB")).startswith("yes, ")


def test_a_model_with_a_graph_break_has_several_graphs() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = mlp(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            torch._dynamo.graph_break()
            return self.second(y)

    model = Broken()
    found = roam.plan(model, random(5, 8), loss=lambda y: y.sum())
    assert len(found.planned) == 3  # before the break, after it, and the loss
    assert found.persistent_by_kind[Kind.PARAMETER] == sum(p.nbytes for p in model.parameters())


def test_bad_input() -> None:
    with pytest.raises(OfflineError, match="Module"):
        roam.plan(lambda x: x, random(5, 8))
    with pytest.raises(OptionError, match="arena"):
        roam.plan(mlp(), random(5, 8), options={"arena": "nowhere"})


def test_the_optimizer_may_come_in_the_options() -> None:
    model, x = mlp(), random(5, 8)
    optimizer = AdamA(model.parameters())
    named = roam.plan(model, x, loss=lambda y: y.sum(), optimizer=optimizer)
    found = roam.plan(model, x, loss=lambda y: y.sum(), options={"optimizer": optimizer})
    assert [what_counts(p) for _, p in found.planned] == [what_counts(p) for _, p in named.planned]
    with pytest.raises(OfflineError, match=r"holds no parameter.*model\.parameters"):
        roam.plan(mlp(), x, loss=lambda y: y.sum(), optimizer=optimizer)


def test_options_are_a_dict() -> None:
    with pytest.raises(OptionError, match="a dict"):
        roam.plan(mlp(), random(5, 8), options="keep")


@pytest.mark.parametrize(
    "loss",
    [lambda y: y.sum() if y.sum().item() > 0 else y.mean(), lambda y: y[y > 0].sum()],
    ids=["a branch", "a size"],
)
def test_a_step_that_depends_on_values_is_refused(loss: Any) -> None:
    with pytest.raises(OfflineError, match="depends on values"):
        roam.plan(mlp(), random(5, 8), loss=loss)


def test_a_graph_that_cannot_be_planned_is_refused() -> None:
    model = nn.Embedding(10, 4, sparse=True)
    with pytest.raises(OfflineError, match="sparse"):
        roam.plan(model, torch.tensor([1, 2]), loss=lambda y: y.sum(), lowering="aten")


def test_a_device_that_torch_was_built_without() -> None:
    """Autograd would abort the process: the CPU's operators are planned instead, aligned alike."""
    built = torch.accelerator.current_accelerator()
    missing, align = ("xpu", 64) if built is not None and built.type == "cuda" else ("cuda", 512)

    def planned(**how: Any) -> Any:
        return roam.plan(mlp(), random(5, 8), loss=lambda y: y.sum(), **how)

    with pytest.warns(UserWarning, match=f"built without {missing}"):
        step = planned(device=missing)
    ((problem, plan),) = step.planned
    assert {b.align for b in problem.buffers} == {align}
    assert all(offset % align == 0 for offset in plan.offsets.values())
    assert plan.live_peak <= planned().largest[1].live_peak  # whose scratch space is measured
    with pytest.raises(OfflineError, match=f"built without {missing}.*lowering='aten'"):
        planned(device=missing, lowering="inductor")


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * 2**30), ("512 MB", 512 * 10**6), ("1.5KiB", 1536), ("7B", 7), (99, 99)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24", "24 G", "", "GiB", "-1GiB", "1e3MB", True, -5, "1 GiB x"])
def test_sizes_are_strict(text: Any) -> None:
    with pytest.raises(SizeFormatError, match=r"24GiB"):
        parse_size(text)


def test_sizes_are_shown_in_the_largest_unit() -> None:
    shown = [show_size(n) for n in (5, 2048, 3 * 2**20, 2**30)]
    assert shown == ["5 B", "2.00 KiB", "3.00 MiB", "1.00 GiB"]


class UnderNoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(x)


def test_a_loss_that_backward_would_refuse_is_refused() -> None:
    def planned(loss: Any, model: nn.Module | None = None) -> Any:
        return roam.plan(model or mlp(), random(5, 8), loss=loss, lowering="aten")

    nothing = "the loss trains nothing"
    for loss, model, complaint in (
        (lambda y: y.detach().sum(), None, nothing),
        (lambda y: y.argmax(), None, nothing),
        (lambda y: y.sum(), UnderNoGrad(), nothing),
        (lambda y: y.sum(), mlp().requires_grad_(False), nothing),
        (lambda y: y, None, r"the loss is no scalar but torch.float32 \[5, 4\]"),
        (None, None, "the output of the model is no scalar"),
        (lambda y: y.to(torch.complex64).sum(), None, "no scalar but torch.complex64"),
        (lambda y: 1.0, None, "holds no scalar tensor .* it is a float"),
    ):
        with pytest.raises(OfflineError, match=complaint):
            planned(loss, model)
    with torch.no_grad(), pytest.raises(OfflineError, match=nothing):
        planned(lambda y: y.sum())
    assert planned(lambda y: y.sum().reshape(1)).planned
    assert planned(lambda y: {"loss": y.sum(), "logits": y}).planned


def test_an_operator_that_refuses_its_arguments_is_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Torch logs the traceback of such an error, and raises it as well."""

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with pytest.raises(OfflineError) as caught:
        roam.plan(Narrow(), random(5, 8), loss=lambda y: y.sum(), lowering="aten")
    said = str(caught.value)
    assert "RuntimeError: a and b must have same reduction dim, but got [5, 8] X [9, 4]" in said
    assert said.endswith("in forward: return self.inner(x))")
    assert "\n" not in said
    assert caught.value.__cause__ is not None  # what --traceback shows
    assert capfd.readouterr().err == ""


def described(rates: Rates, tier: float) -> StepPlan:
    """The plan of a small step on a machine that is not at hand, offloading if that is free."""
    machine = roam.Machine("mine", "cpu", rates, write=tier, read=tier)
    to = roam.OffloadTo("/no/such/folder", smallest=1)
    layers = ((nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.1)) for _ in range(6))
    deep = nn.Sequential(*(nn.Sequential(*layer) for layer in layers))
    x = random(64, 8)
    return roam.plan(deep, x, loss=lambda y: y.sum(), machine=machine, offload=to)


def test_a_machine_that_is_described_needs_neither_clock_nor_disk() -> None:
    """Each op takes the millisecond of its call, and what moves depends on the tier's rates."""
    rates = Rates({"float32": inf}, bandwidth=inf, call=1e-3)
    fast, slow = described(rates, tier=2e6), described(rates, tier=1.0)
    (graph,) = fast.graphs
    assert graph.problem is not None
    costs = {op.cost for op in graph.problem.ops if op.lane is Lane.COMPUTE}
    assert costs <= {0.0, 1e-3}
    assert graph.moved is not None
    assert (graph.moved.write, graph.moved.read) == (2e6, 2e6)
    assert graph.plan is not None
    assert simulate(graph.problem, graph.plan.order, Link(2e6, 2e6)).stall == 0
    assert slow.graphs[0].moved is None
    assert "(simulated: mine)" in str(fast)
    again = StepPlan.from_json(fast.to_json())
    assert again.time == fast.time


def test_a_machine_that_nobody_described_is_refused_by_name() -> None:
    with pytest.raises(OptionError, match=r"'a1000'.*h200"):
        roam.plan(mlp(8), random(2, 8), machine="a1000")
    with pytest.raises(OptionError, match="h200 is not at hand"):
        roam.plan(mlp(8), random(2, 8), machine="h200", measure_costs=True)


def test_a_rank_that_shares_parameters() -> None:
    model = mlp(64)
    optimizer = AdamA(model.named_parameters())
    how: dict[str, Any] = {"optimizer": optimizer, "loss": Tensor.sum, "lowering": "aten"}
    alone, rank = (roam.plan(model, random(4, 8), **how, **m) for m in ({}, {"mesh": 4}))
    assert rank.persistent_by_kind[Kind.STATE] == alone.persistent_by_kind[Kind.STATE] // 4
    [(problem, _)] = rank.planned
    assert sum(op.lane is Lane.COMMUNICATION for op in problem.ops) >= 3
    with pytest.raises(OptionError, match="mesh plans a rank with ATen's kernels, without a budg"):
        roam.plan(model, random(4, 8), **how, mesh=4, budget="50%")
