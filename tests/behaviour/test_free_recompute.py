"""Without a budget, ATen's kernels recompute what is cheap, and never take more than aot_eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

import roam
from roam.core.machine import Bytes
from roam.inspect.measure import measure_peak
from roam.lowering.aten import free_recompute, free_search
from roam.lowering.aten.aot_eager import AotEager, Partitioned, at_least
from roam.solvers.budget.copies import Copies, Step
from tests.behaviour.small_nets import Checkpointed, Convolutional, image, stepped
from tests.helpers import Compile, assert_equal, compiler, random, snapshot, unfused

Make = Callable[[], nn.Module]
Seen = list[tuple[Bytes, Bytes]]
SMALL = 16  # bytes that a step takes beside the plan: a loss, and a tangent


class RootMeanSquare(nn.Module):
    """A norm as of language models, in ops of its own, before an MLP with a gate."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.up, self.gate = (nn.Linear(width, 4 * width) for _ in range(2))
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))
        y = torch.tanh(self.up(y)) * 2 + 1
        return x + dropout(self.down(y), 0.1)


class Broken(nn.Module):
    """Two graphs: what the first one leaves for its backward is there while the second runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = deep(RootMeanSquare), deep(RootMeanSquare, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.second(x)  # type: ignore[no-any-return]


def deep(block: Make, depth: int = 4) -> nn.Module:
    return nn.Sequential(*(block() for _ in range(depth)))


def trained(make: Make, x: Tensor, compile_: Compile) -> tuple[list[Any], int]:
    """Returns the gradients and buffers of two steps, and the measured peak of the third."""
    torch._dynamo.reset()
    roam.reset_report()
    torch.manual_seed(0)
    model = make()
    run = compile_(lambda x: model(x).square().mean())
    found: list[Any] = []

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        run(x).backward()

    for _ in range(2):
        step()
        found += snapshot([p.grad for p in model.parameters()] + [*model.buffers()])
    model.zero_grad(set_to_none=True)
    return found, measure_peak(step).peak


def again() -> list[str]:
    """The names of the ops that run again in the latest graphs."""
    problems = (g.problem for g in roam.report().graphs)
    return [op.name for p in problems if p is not None for op in p.ops if "~" in op.name]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """By graph that is compiled, the bound and aot_eager's peak, both looked at in any case."""
    bounds: list[Bytes] = []
    found: Seen = []
    partitioned = AotEager.partitioned

    def no_bound(*given: Any) -> Bytes:
        bounds.append(at_least(*given))
        return 0

    def spy(self: AotEager) -> Partitioned:
        theirs = partitioned(self)
        found.append((bounds[-1], theirs.peaks(0).held))
        return theirs

    monkeypatch.setattr(free_recompute, "at_least", no_bound)
    monkeypatch.setattr(AotEager, "partitioned", spy)
    return found


@pytest.mark.parametrize(
    ("make", "x", "above"),
    [
        (lambda: deep(RootMeanSquare), lambda: random(64, 16), True),
        (Convolutional, image, False),
        (Checkpointed, lambda: random(64, 32), False),
        pytest.param(Broken, lambda: random(64, 16), True, marks=pytest.mark.slow),
    ],
    ids=["norms", "convolutional", "checkpoint", "two graphs"],
)
def test_never_above_aot_eager(
    make: Make, x: Callable[[], Tensor], above: bool, seen: Seen
) -> None:
    """above: whether it would be if the backward ran nothing again."""
    expected, theirs = trained(make, x(), compiler("aot_eager"))
    found, ours = trained(make, x(), unfused)
    assert_equal(found, expected)
    assert ours <= theirs + SMALL
    assert bool(again()) == above
    told = [g.recomputed for g in roam.report().graphs if g.recomputed is not None]
    assert sum(m.ops for t in told for m in t.modules) == len(again())
    assert all(t.lines()[0].startswith("no budget: ") for t in told)
    if above:
        saving, without = trained(make, x(), lambda f: unfused(f, recompute=False))
        assert without > theirs + SMALL
        assert not again()
        assert_equal(found, saving)
    if make is not Broken:  # whose two peaks are not at one time
        [(bound, peak)] = seen
        assert abs(peak - theirs) <= SMALL
        assert bound <= peak
        assert (bound > 0.5 * peak) == (make is not Checkpointed)  # checkpoints: no bound


def test_half_a_percent_of_the_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of large tensors; products, which take the time, do not run again."""
    chosen: list[tuple[Step, float, Copies]] = []

    def spy(step: Step, seconds: float) -> Copies:
        chosen.append((step, seconds, lowest_peak(step, seconds)))
        return chosen[-1][-1]

    lowest_peak = free_search.lowest_peak
    monkeypatch.setattr(free_search, "lowest_peak", spy)

    def make() -> nn.Module:
        return deep(lambda: RootMeanSquare(512), 3)

    saving, without = trained(make, random(512, 512), lambda f: unfused(f, recompute=False))
    assert not chosen
    caplog.set_level("INFO", "roam")
    found, ours = trained(make, random(512, 512), unfused)
    assert "of the step, estimated), so its peak is" in caplog.text
    [(step, seconds, copies)] = chosen
    assert 0 < copies.cost <= seconds == 0.005 * step.seconds
    assert all(step.problem.buffers[b].size >= 2**20 for b in saved_by(copies))
    assert ours < without
    assert_equal(found, saving)


def saved_by(copies: Copies) -> set[int]:
    """The buffers that an op of the backward reads of a copy."""
    return {b for (reader, b) in copies.version if not isinstance(reader, tuple)}


def test_planned_offline_it_is_the_same() -> None:
    model = deep(RootMeanSquare)
    loss = lambda y: y.square().mean()  # noqa: E731
    found = roam.plan(model, random(64, 16), loss=loss, lowering="aten")
    torch._dynamo.reset()
    roam.reset_report()
    unfused(lambda x: loss(model(x)))(random(64, 16)).backward()
    [graph] = roam.report().graphs
    [(problem, plan)] = found.planned
    assert graph.plan is not None
    assert (graph.plan.fingerprint, graph.plan.order) == (plan.fingerprint, plan.order)
    assert [op.name for op in problem.ops if "~" in op.name] == again() != []


def test_dynamic_sizes_are_chosen_for_by_those_of_the_first_run() -> None:
    def sized(compile_: Compile) -> list[Any]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = deep(RootMeanSquare)
        run = compile_(lambda x: model(x).square().mean())
        found: list[Any] = []
        for rows in (64, 96, 40):
            torch.manual_seed(1)
            run(random(rows, 16)).backward()
            found += snapshot([p.grad for p in model.parameters()])
        return found

    expected = sized(compiler("aot_eager", dynamic=True))
    roam.reset_report()
    found = sized(
        lambda f: torch.compile(f, backend="roam", dynamic=True, options={"lowering": "aten"})
    )
    assert_equal(found, expected)
    assert roam.report().planned == 3
    assert again()


def test_what_fails_does_not_keep_a_model_from_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: AotEager) -> Partitioned:
        raise RuntimeError("no partition")

    monkeypatch.setattr(AotEager, "partitioned", broken)
    expected, _ = trained(lambda: deep(RootMeanSquare), random(64, 16), compiler("aot_eager"))
    found, _ = trained(lambda: deep(RootMeanSquare), random(64, 16), unfused)
    assert_equal(found, expected)
    assert not again()
    assert "choosing what to recompute failed" in caplog.text


def test_a_whole_step_recomputes_what_is_cheap() -> None:
    """Forward, backward and folds in one graph: what a fold changes is read before it."""

    def planned(**options: Any) -> tuple[list[Any], int]:
        found, _ = stepped(
            lambda: deep(lambda: RootMeanSquare(512), 3), random(512, 512), 2, **options
        )
        [graph] = roam.report().step.graphs
        assert graph.plan is not None
        return found, graph.plan.peak

    expected, without = planned(recompute=False)
    assert not again()
    found, peak = planned()
    assert again()
    assert peak <= without - 2**20
    assert_equal(found, expected)
