"""Functional collectives in a captured graph: one order, never copied, alive until the wait."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import roam
from roam.core.problem import Lane, Problem
from tests.helpers import compiler, mlp, unfused

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
RANKS = 4


@pytest.fixture
def one_of_four_ranks() -> Iterator[None]:
    """torch's fake backend: a collective returns at once what happens to be there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    yield
    dist.destroy_process_group()


class Net(nn.Module):
    """Gathers what it reads again afterwards, and sums a matrix of twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(32, 64), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        from torch.distributed import _functional_collectives as functional

        group = dist.group.WORLD
        summed = functional.all_reduce(self.a(x), "sum", group)
        kept = self.b(x).relu()
        gathered = functional.all_gather_tensor(kept.square(), 0, group)
        return (summed.sigmoid().sum() + gathered.tanh().mean()) * kept.mean()


def check(problem: Problem, order: tuple[int, ...]) -> None:
    ops = problem.ops
    talking = [i for i, op in enumerate(ops) if op.lane is Lane.COMMUNICATION]
    assert len(talking) == 8  # a start and a wait each, as many in the backward
    assert not any(ops[i].may_be_copied for i in talking)
    assert [i for i in order if i in talking] == talking
    for first, second in itertools.pairwise(talking):
        if ops[first].phase == ops[second].phase:
            assert first in problem.predecessors[second]
    starts = {b: i for i in talking for b in ops[i].creates}
    for wait in talking:
        for b in set(ops[wait].mutates) & starts.keys():
            assert set(ops[starts[b]].reads) <= set(ops[wait].reads)  # alive until then


@pytest.mark.usefixtures("one_of_four_ranks")
@pytest.mark.parametrize("lowering", ["aten", pytest.param("inductor", marks=pytest.mark.slow)])
def test_collectives_are_ops_of_the_problem(lowering: str) -> None:
    plan = roam.plan(Net(), torch.randn(16, 32), lowering=lowering)
    [record] = plan.graphs
    assert record.problem is not None
    assert record.plan is not None
    check(record.problem, record.plan.order)


@pytest.mark.usefixtures("one_of_four_ranks")
def test_planned_is_measured() -> None:
    model, x = Net(), torch.randn(16, 32)
    run = unfused(model)

    def step() -> None:
        model.zero_grad()
        run(x).backward()

    measured = roam.measure_peak(step, warm_up=step)
    [record] = roam.report().graphs
    assert record.plan is not None
    assert abs(measured.peak - record.plan.peak) <= 16  # bytes of Python's numbers


def losses(backend: str) -> list[float]:
    """Of a model whose matrices are cut over the ranks (DTensor)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    torch._dynamo.reset()
    model, cuts = mlp(64), {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(model, init_device_mesh("cpu", (RANKS,)), cuts)
    run, x = compiler(backend)(model), torch.randn(16, 8)
    optimizer, found = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(2):
        loss = run(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.usefixtures("one_of_four_ranks")
def test_tensor_parallel() -> None:
    torch.manual_seed(0)
    theirs = losses("aot_eager")
    roam.reset_report()
    torch.manual_seed(0)
    assert losses("step") == theirs
    [record] = roam.report().graphs
    assert record.problem is not None
    lanes = [op.lane for op in record.problem.ops]
    assert lanes.count(Lane.COMMUNICATION) == 2
