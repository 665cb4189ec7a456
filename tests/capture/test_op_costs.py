"""Costs of ops: each distinct call is run once, within the cap, and the rest is estimated."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import roam
from roam.capture import op_costs
from roam.capture.cost_table import CostTable, Site
from roam.capture.op_calls import Call
from roam.capture.op_costs import Cost, OpCosts, call_text
from roam.capture.rates import is_here, rates_of, shortest
from roam.capture.roofline import OpWork
from roam.capture.symbolic_sizes import Numbers
from roam.inspect.step_plan import StepPlan
from roam.optim import AdamA
from tests.helpers import mlp, random
from tests.passes.graphs import node_of

aten = torch.ops.aten
RATES = {"cpu flops float32": 1e9, "cpu bandwidth": 1e6, "cpu call": 1e-3}
Ran = list[str]


class Clock:
    """A clock on which every reading is a tick later."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def table(folder: Path) -> CostTable:
    """Without the probes, whose rates are known: a byte takes a microsecond, a call 1000."""
    made = CostTable.open(Site("2.13.0", "a machine", 1), folder)
    made.rates = dict(RATES)
    return made


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """The ops that were run, in order."""
    seen: Ran = []
    measured = op_costs._measured

    def noted(call: Call, *given: Any) -> float | None:
        seen.append(str(call.target))
        return measured(call, *given)

    monkeypatch.setattr(op_costs, "_measured", noted)
    return seen


def graph_of(*calls: tuple[Any, ...]) -> fx.Graph:
    """A graph of these calls, on operands of their own."""
    graph = fx.Graph()
    with FakeTensorMode() as mode:
        for op, *args in calls:
            fakes = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args]
            inputs = [graph.placeholder("x") if isinstance(a, Tensor) else a for a in args]
            for node, fake in zip(inputs, fakes, strict=True):
                if isinstance(node, fx.Node):
                    node.meta["val"] = fake
            graph.call_function(op, tuple(inputs)).meta["val"] = op(*fakes)
    return graph


SMALL, LARGE = torch.empty(8), torch.empty(4096)
ADD, EXP, TANH = ((op, LARGE) for op in (aten.neg.default, aten.exp.default, aten.tanh.default))
FOUR = (aten.relu.default, SMALL), ADD, EXP, EXP, TANH


def found(costs: OpCosts, *calls: tuple[Any, ...]) -> list[Cost]:
    graph = graph_of(*calls)
    by_node = costs.of([graph], Numbers())
    return [by_node[n] for n in graph.nodes if n.op == "call_function"]


def test_nothing_is_run_unasked(tmp_path: Path, ran: Ran) -> None:
    relu, *large = found(OpCosts(table=table(tmp_path)), *FOUR)
    assert relu == Cost(pytest.approx(1e-3 + 64e-6), estimated=True)
    assert large == 4 * [Cost(pytest.approx(1e-3 + 32768e-6), estimated=True)]
    assert ran == []


def test_every_distinct_call_is_run_once_the_most_of_the_step_first(
    tmp_path: Path, ran: Ran
) -> None:
    costs = OpCosts(measure=True, table=table(tmp_path), clock=Clock(1e-3))
    measured = found(costs, *FOUR)
    assert {c.estimated for c in measured} == {False}
    assert ran == ["aten.exp.default", "aten.neg.default", "aten.tanh.default", "aten.relu.default"]
    assert measured[2] == measured[3] == Cost(pytest.approx(1e-3))


def test_what_is_known_is_not_run_again(tmp_path: Path, ran: Ran) -> None:
    first = found(OpCosts(measure=True, table=table(tmp_path), clock=Clock(1e-3)), *FOUR)
    assert len(ran) == 4
    later = OpCosts(table=CostTable.open(Site("2.13.0", "a machine", 1), tmp_path))
    assert found(later, *FOUR) == first
    assert len(ran) == 4


@pytest.mark.parametrize("tick", [1 / 128, 1 / 16, 1 / 4])  # exact in sums
def test_the_cap_is_kept(tick: float, tmp_path: Path, ran: Ran) -> None:
    """Once the time is used up nothing is begun, in this graph or a later one of the plan."""
    clock = Clock(tick)
    costs = OpCosts(measure=True, left=1.0, table=table(tmp_path), clock=clock)
    calls = [(aten.add.Scalar, SMALL, float(n)) for n in range(40)]
    first = found(costs, *calls)
    taken = clock.now
    assert taken <= 1.0 + 5 * tick  # looking at the clock takes its time, too
    assert sum(not c.estimated for c in first) <= len(ran) < 40
    assert ran
    assert costs.left == 0.0
    before = len(ran)
    assert all(c.estimated for c in found(costs, (aten.neg.default, SMALL)))
    assert len(ran) == before
    assert clock.now - taken <= 3 * tick


def test_a_call_that_should_take_too_long_is_left_out_for_one_that_fits(
    tmp_path: Path, ran: Ran
) -> None:
    costs = OpCosts(measure=True, left=0.05, table=table(tmp_path), clock=Clock(1e-4))
    large, small = found(costs, ADD, (aten.relu.default, SMALL))
    assert (large.estimated, small.estimated) == (True, False)
    assert ran == ["aten.relu.default"]


@torch.library.custom_op("roam_tests::pressed", mutates_args=())
def pressed(x: Tensor) -> Tensor:
    raise AssertionError("nobody knows what it does")


@pressed.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_what_may_not_be_run_is_estimated(tmp_path: Path, ran: Ran) -> None:
    """The user's own operators, and what is too large or refuses zeros."""
    draw = aten.multinomial.default, SMALL, 2
    costs = OpCosts(True, clock=Clock(1e-4), table=table(tmp_path), largest=10_000)
    own = (torch.ops.roam_tests.pressed.default, SMALL)
    assert all(c.estimated for c in found(costs, own, draw, ADD))
    assert ran == ["aten.multinomial.default"]


def test_a_device_that_is_not_here_has_no_costs(tmp_path: Path) -> None:
    costs = OpCosts(measure=True, table=table(tmp_path))
    assert not is_here("meta")
    assert costs.estimated({"op": OpWork("meta", 1000)}) == {}
    on_meta = torch.empty(8, device="meta")
    assert costs.of([node_of(aten.neg.default, (on_meta,), {}, on_meta).graph], Numbers()) == {}


def test_the_user_sees_nothing_of_it(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    costs = OpCosts(measure=True, table=table(tmp_path))
    (drawn,) = found(costs, (aten.bernoulli.default, SMALL))
    assert not drawn.estimated
    assert torch.equal(torch.rand(3), expected)


def test_calls_are_told_apart_by_all_that_decides_their_time() -> None:
    def text(x: Tensor, op: Any = aten.cumsum.default, *args: Any) -> str:
        return call_text(Call.of(node_of(op, (x, *args), {}, op(x, *args)), Numbers()))

    x = torch.empty(4, 6)
    same = text(x, aten.cumsum.default, 1)
    assert text(torch.empty(4, 6), aten.cumsum.default, 1) == same
    others = [
        text(x, aten.cumsum.default, 0),
        text(x, aten.cumprod.default, 1),
        text(x.t(), aten.cumsum.default, 1),
        text(torch.empty(6, 4).t(), aten.cumsum.default, 1),
        text(x.double(), aten.cumsum.default, 1),
    ]
    assert len({same, *others}) == 6
    torch.use_deterministic_algorithms(True)
    try:
        assert text(x, aten.cumsum.default, 1) != same
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_shortest_run_counts_and_the_first_does_not() -> None:
    seconds = iter([9.0, 3.0, 1.0, 2.0, *([5.0] * 50)])
    now = 0.0

    def run() -> None:
        nonlocal now
        now += 1e-3 * next(seconds)

    assert shortest(run, "cpu", lambda: now) == pytest.approx(1e-3)
    assert shortest(run, "cpu", lambda: now, end=now) is None


def test_the_probes_run_once_a_machine(tmp_path: Path) -> None:
    made = CostTable.open(Site("2.13.0", "a machine", 1), tmp_path)
    ticks = count()
    clock = lambda: float(next(ticks))  # noqa: E731
    rates = rates_of("cpu", [torch.bfloat16, torch.bool], made, clock)
    assert set(rates.flops) == {"float32", "bfloat16", "bool"}
    assert rates.flops["bool"] == rates.flops["float32"] == 2 * 512**3  # in a tick of a second
    assert rates.bandwidth == 2 * 2**25
    read = next(ticks)
    assert rates_of("cpu", [torch.bfloat16], made, clock).call == rates.call == 1.0
    assert next(ticks) == read + 1


@pytest.mark.parametrize("lowering", ["aten", "inductor"])
def test_a_plan_says_what_its_ops_cost(lowering: str) -> None:
    """Folds too. Its fingerprint is that of a plan without costs, on any machine."""
    model, x = mlp(), random(5, 8)
    optimizer = AdamA(model.parameters())
    plan = roam.plan(
        model, x, loss=lambda y: y.sum(), optimizer=optimizer, lowering=lowering, measure_costs=True
    )
    (graph,) = plan.graphs
    assert graph.problem is not None
    costs = {op.name: op.cost for op in graph.problem.ops}
    assert {n for n, c in costs.items() if not c} <= {"tangents"}
    guesses = set(graph.estimated_costs)
    assert {n for n in costs if n.startswith("fold_")} <= guesses < costs.keys()
    assert plan.time is not None
    assert plan.time.seconds == pytest.approx(sum(costs.values()))
    assert 0 < plan.time.estimated < plan.time.seconds
    assert str(plan.time) in str(plan)
    assert str(plan.time) in str(plan.explain())
    assert StepPlan.from_json(plan.to_json()).time == plan.time


def test_a_step_that_runs_is_not_priced(ran: Ran) -> None:
    model = torch.compile(nn.Linear(8, 4), backend="roam", options={"lowering": "aten"})
    model(random(5, 8)).sum().backward()
    (graph,) = roam.report().graphs
    assert graph.problem is not None
    assert {op.cost for op in graph.problem.ops} == {0.0}
    assert roam.report().step.time is None
    assert ran == []
