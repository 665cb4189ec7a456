"""What Inductor's forward saves lies in blocks: the same bits, and the peak as planned."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config
from torch._inductor.codecache import PyCodeCache

import roam
from roam.bench.zoo import TINY, loss
from roam.core import machine
from roam.core.machine import Blocking
from roam.core.plan import Plan
from roam.optim import AdamA
from roam.planner import SavedBlocks, Settings, plan
from roam.runtime import saved_stack
from tests.behaviour.test_threads import together
from tests.helpers import (
    Compile,
    CpuWith,
    assert_equal,
    folding_step,
    fused,
    grads,
    measured_as_planned,
    random,
    same_as_inductor,
    snapshot,
    total,
)
from tests.lowering.inductor.test_behaviour import ROWS, backward_twice, deep, sizes
from tests.lowering.inductor.test_order import gradients
from tests.solvers.layout.test_saved_layout import saving

pytestmark = pytest.mark.usefixtures("shared_kernels", "stacked")
SMALL = 2**16  # bytes, for the largest block of a tiny model


@pytest.fixture
def stacked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The models of tests are too small for a segment. Here whatever may lie in a block does."""
    monkeypatch.setattr("roam.solvers.layout.saved_layout.simulate", most_in_fewest)
    monkeypatch.setattr("roam.solvers.layout.saved_layout.WORTH", 0)
    _forget()
    yield
    _forget()


@pytest.fixture
def side_by_side(cpu_with: CpuWith) -> None:
    """Models as small as these have little room for gaps: without them more lies in blocks."""
    cpu_with(blocking=replace(machine.CPU.blocking, stagger=0))


def _forget() -> None:
    """Modules that are loaded already would not say again what was planned."""
    PyCodeCache.cache_clear()
    saved_stack.forget()


def most_in_fewest(*given: Any) -> tuple[int, int]:
    *_, offsets, blocks = given
    return -len(offsets), len(blocks)


def plans() -> list[Plan]:
    return [g.plan for g in roam.report().graphs if g.plan is not None]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "resnet"])
def test_a_step(name: str, side_by_side: None) -> None:
    """Before the backward is there everything is by itself, and after that in its blocks."""
    ran = same_bits_in_blocks(name)
    assert len(ran.offsets) > 2 * len(ran.blocks) > 0
    assert ran.peak == ran.live_peak
    assert max(b.size for b in ran.blocks) > 2 * SMALL


@pytest.mark.slow
def test_a_staggered_step() -> None:
    ran = same_bits_in_blocks("gpt2")
    assert len(ran.offsets) > len(ran.blocks) > 0
    assert ran.live_peak < ran.peak <= 1.001 * ran.live_peak


@pytest.mark.slow
def test_no_block_is_so_large_that_malloc_maps_it_anew(
    side_by_side: None, cpu_with: CpuWith
) -> None:
    """Every page of such a block was a fault in every step."""
    cpu_with(blocking=Blocking(largest=SMALL))
    cut = same_bits_in_blocks("gpt2")
    assert 0 < max(b.size for b in cut.blocks) <= SMALL


def same_bits_in_blocks(name: str) -> Plan:
    """The plan of a model whose steps have Inductor's bits, and take what was planned."""
    model, batch = TINY[name].build().eval(), TINY[name].batch()
    theirs = gradients(model, batch, torch.compile(loss, backend="inductor"))
    torch._dynamo.reset()
    step = fused(loss, split=False)  # which adds up tied gradients as Inductor does
    for _ in range(3):
        found = gradients(model, batch, step)
        assert {n for n in found if not torch.equal(found[n], theirs[n])} == set()

    def run() -> None:
        step(model, batch).backward()
        model.zero_grad(set_to_none=True)

    return measured_as_planned(run)


def test_folds() -> None:
    ours = deep()
    theirs = copy.deepcopy(ours)
    folding = AdamA(ours.parameters(), lr=1e-2)
    usual = torch.optim.AdamW(theirs.parameters(), lr=1e-2, fused=True)
    x = random(256, 8)
    ways = (
        (fused(lambda: ours(x).square().sum(), optimizer=folding), folding),
        (torch.compile(lambda: theirs(x).square().sum()), usual),
    )

    def training(run: Any, optimizer: Any) -> None:
        run().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        for way in ways:
            training(*way)
    assert_equal(ours.parameters(), theirs.parameters())
    measured = roam.measure_peak(lambda: training(*ways[0])).peak
    [ran] = plans()
    assert ran.blocks
    assert abs(ran.peak - measured) <= 0.01 * measured


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixtral", "mamba"])
def test_a_block_is_held_as_long_as_planned(name: str, side_by_side: None) -> None:
    """Inductor would write over other inputs, of the same size, than the plan does."""
    model, batch = TINY[name].build().eval(), TINY[name].batch()
    step = folding_step(loss, model, model, batch)
    step()
    step()
    ran = measured_as_planned(step)
    assert len(ran.offsets) > 2 * len(ran.blocks) > 0


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(x), approximate="tanh"))


def test_what_a_fold_waits_for_is_not_written_over() -> None:
    """To Inductor a fold uses the gradient made beside it, so it writes over what is saved."""
    model = nn.Sequential(*(Residual() for _ in range(6)))
    step = folding_step(lambda x: model(x).square().sum(), model, random(512, 32))
    step()
    step()
    assert measured_as_planned(step).blocks


def saved(out: Tensor) -> list[Tensor]:
    """What the backward of a compiled graph will read."""
    pending, found = [out.grad_fn], []
    while pending:
        node = pending.pop()
        found += [t for t in getattr(node, "saved_tensors", ()) if isinstance(t, Tensor)]
        pending += [n for n, _ in getattr(node, "next_functions", ()) if n is not None]
    return found


def test_tensors_of_a_block_are_counted_apart() -> None:
    """A write to one is no write to the others: autograd would refuse to run."""
    model = deep()
    run = fused(model)
    run(random(ROWS, 8)).sum().backward()
    out = run(random(ROWS, 8))
    inside = [t for t in saved(out) if getattr(t.untyped_storage(), "is_roam_block", False)]
    assert len(inside) > 1
    assert len({t.untyped_storage().data_ptr() for t in inside}) < len(inside)
    before = [t._version for t in inside]
    with torch.no_grad():
        inside[0].mul_(1.0)
    assert [t._version for t in inside[1:]] == before[1:]
    assert inside[0]._version == before[0] + 1


def test_pending_forwards_and_hooks() -> None:
    """Two forwards wait at once; saved tensors are moved elsewhere; the graph is retained."""

    def moved(t: Tensor) -> Tensor:
        return t.clone()

    def scenario(compile_: Compile) -> Iterator[Any]:
        model = deep()
        run = compile_(model)
        for _ in range(2):
            first, second = run(random(ROWS, 8)), run(random(ROWS, 8) + 1)
            total(first).backward()  # type: ignore[no-untyped-call]
            yield from grads(model)
            total(second).backward()  # type: ignore[no-untyped-call]
            yield from grads(model)
            with torch.autograd.graph.saved_tensors_hooks(moved, moved):
                out = run(random(ROWS, 8))
            total(out).backward()  # type: ignore[no-untyped-call]
            yield from grads(model)
        yield from backward_twice(run(random(ROWS, 8)).square().sum())
        yield from grads(model)

    same_as_inductor(scenario)
    assert plans()[0].blocks


def test_two_threads() -> None:
    model, x = deep(), random(ROWS, 8)
    run = fused(model)
    run(x).sum().backward()
    model.zero_grad()

    def gradient() -> list[Any]:
        found = []
        for _ in range(20):
            found += snapshot(torch.autograd.grad(run(x).square().sum(), list(model.parameters())))
        return found

    alone = gradient()
    for found in together([gradient, gradient]):
        assert_equal(found, alone)


def by_itself(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype)


reinterpret = torch._C._dynamo.guards._reinterpret_tensor  # as in Inductor's code


def test_neighbours_in_a_block_are_tensors_of_their_own() -> None:
    """A block's view would have its version: autograd would take a write to one for one to all."""
    problem = saving(2, 64, 128)
    saved_stack.place("forward", problem, plan(problem, Settings(placement=SavedBlocks())))
    forward = saved_stack.stack("forward", ("s0", "s1"), "cpu", by_itself, reinterpret)
    kinds = [((8, 2), (1, 8), torch.float32), ((4, 2), (2, 1), torch.float64)]
    made = [make(*kind) for make, kind in zip(forward.places(), kinds, strict=True)]
    for i, tensor in enumerate(made):
        tensor.fill_(i)
    assert [(t.shape, t.stride(), t.dtype) for t in made] == kinds
    assert [t.unique().tolist() for t in made] == [[0], [1]]
    assert [t._version for t in made] == [1, 1]
    assert len({t.untyped_storage().data_ptr() for t in made}) == 1


def test_backwards_that_disagree_have_no_blocks() -> None:
    problem = saving(2, 64, 128)
    forward = saved_stack.stack("forward", ("s0", "s1"), "cpu", by_itself, reinterpret)

    def storages() -> int:
        made = [make((16,), (1,), torch.float32) for make in forward.places()]
        return len({t.untyped_storage().data_ptr() for t in made})

    assert storages() == 2
    for _ in range(2):
        saved_stack.place("forward", problem, plan(problem, Settings(placement=SavedBlocks())))
        assert storages() == 1
    saved_stack.place("other", problem, plan(problem))
    assert storages() == 1
    saved_stack.place(
        "forward", problem, plan(problem, Settings(placement=SavedBlocks((128, 128))))
    )
    assert storages() == 2


def test_code_that_does_not_ask_for_all_that_is_placed_gets_no_block() -> None:
    problem = saving(2, 64, 128)
    saved_stack.place("forward", problem, plan(problem, Settings(placement=SavedBlocks())))
    forward = saved_stack.stack("forward", ("s0", "s2"), "cpu", by_itself, reinterpret)
    assert forward.places() == [by_itself] * 2


def test_a_result_that_is_saved_as_well_is_the_users() -> None:
    weight = nn.Parameter(random(64, 64))

    def scenario(compile_: Compile) -> Iterator[Any]:
        run = compile_(lambda x: ((x @ weight).exp(), (x @ weight).tanh().square()))
        for _ in range(2):
            first, second = run(random(64, 64))
            assert not any(hasattr(t.untyped_storage(), "is_roam_block") for t in (first, second))
            (first.sum() + second.sum()).backward()
            yield first.detach()
            yield weight.grad
            weight.grad = None

    same_as_inductor(scenario)
    assert plans()[0].blocks


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"cpp_wrapper": True}, marks=pytest.mark.slow),
        {"allow_buffer_reuse": False},
    ],
)
def test_inductors_settings(settings: dict[str, Any]) -> None:
    with config.patch(settings):
        same_as_inductor(sizes(ROWS, ROWS))
    assert bool(plans()[0].blocks) is not settings.get("cpp_wrapper", False)


def test_dynamic_shapes_stay_outside() -> None:
    same_as_inductor(sizes(6, 9, 12), dynamic=True)
    assert plans()[0].blocks == ()
