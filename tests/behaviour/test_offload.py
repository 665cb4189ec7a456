"""Tensors that move to a file and back: the bits are those without, and the peak is lower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.errors import OptionError, TransferError
from roam.inspect.step_plan import StepPlan
from roam.lowering.aten.kernels import AtenKernels
from roam.lowering.aten.step_watch import Measured, StepWatch
from roam.runtime.file_tier import file_tier
from tests.behaviour.small_nets import (
    Checkpointed,
    Convolutional,
    Loss,
    blocks,
    image,
    rows,
    stepped,
    trained,
)
from tests.helpers import assert_equal, snapshot, unfused
from tests.runtime.faults import Fault, FaultyCalls, fail_as

Make = Callable[[], nn.Module]


def to(folder: Path) -> roam.OffloadTo:
    """A disk so fast, as far as the plan knows, that whatever may move can be hidden."""
    return roam.OffloadTo(str(folder), write=1e13, smallest=256)


@pytest.mark.parametrize(
    ("make", "x", "folded"),
    [
        (blocks, rows, False),
        (blocks, rows, True),
        (Convolutional, image, False),
        pytest.param(Checkpointed, rows, True, marks=pytest.mark.slow),
    ],
)
def test_what_moves_comes_back_with_the_same_bits_and_lowers_the_peak(
    make: Make, x: Callable[[], Tensor], folded: bool, folder: Path
) -> None:
    expected, without = trained(make, x(), folded)
    # what moves is the subject, not how good the order is: a second of search is enough
    found, peak = trained(make, x(), folded, offload=to(folder), planning_seconds=1.0)
    assert_equal(found, expected)
    (graph,) = roam.report().graphs
    assert graph.plan is not None
    assert graph.moved is not None
    traffic = file_tier(folder).out.traffic
    assert traffic.nbytes == 3 * graph.moved.written > 0
    assert file_tier(folder).back.traffic.nbytes == traffic.nbytes
    assert graph.moved.bound <= graph.plan.peak < graph.moved.without
    assert peak < without


def test_a_budget_is_kept_by_transfers_and_copies_together(folder: Path) -> None:
    expected, without = trained(blocks, rows(), False)
    found, peak = trained(
        blocks, rows(), False, offload=to(folder), budget="50%", planning_seconds=1.0
    )
    assert_equal(found, expected)
    (graph,) = roam.report().graphs
    assert graph.moved is not None
    assert graph.recomputed is not None
    assert graph.moved.written > 0
    assert graph.recomputed.modules
    assert peak <= graph.recomputed.limit < without


def test_what_fits_without_transfers_stays_where_it_is(folder: Path) -> None:
    trained(blocks, rows(), False, offload=to(folder), budget="100%")
    (graph,) = roam.report().graphs
    assert graph.moved is None
    assert file_tier(folder).file_size == 0


def gradients(loop: Callable[[Any, nn.Module, Tensor], None], **options: Any) -> list[Any]:
    torch._dynamo.reset()
    roam.reset_report()
    model = Loss(blocks)
    loop(unfused(model, **options), model, rows())
    return snapshot([p.grad for p in model.parameters()])


def twice_backward(run: Any, model: nn.Module, x: Tensor) -> None:
    loss = run(x)
    loss.backward(retain_graph=True)
    loss.backward()


def two_forwards(run: Any, model: nn.Module, x: Tensor) -> None:
    first, second = run(x), run(x + 1)
    first.backward()
    second.backward()


def dropped_forward(run: Any, model: nn.Module, x: Tensor) -> None:
    run(x)
    run(x).backward()


def by_autograd(run: Any, model: nn.Module, x: Tensor) -> None:
    found = torch.autograd.grad(run(x), list(model.parameters()))
    for p, grad in zip(model.parameters(), found, strict=True):
        p.grad = grad


@pytest.mark.parametrize(
    "loop",
    [
        twice_backward,
        two_forwards,
        pytest.param(dropped_forward, marks=pytest.mark.slow),
        pytest.param(by_autograd, marks=pytest.mark.slow),
    ],
)
def test_loops_of_all_kinds_have_the_bits_of_no_transfers(
    loop: Callable[[Any, nn.Module, Tensor], None], folder: Path
) -> None:
    expected = gradients(loop)
    assert_equal(gradients(loop, offload=to(folder)), expected)
    assert file_tier(folder).back.traffic.nbytes > 0


def test_the_room_of_a_forward_is_free_when_its_backward_has_run(folder: Path) -> None:
    def loop(run: Any, model: nn.Module, x: Tensor) -> None:
        for _ in range(4):
            run(x).backward()
            sizes.append(file_tier(folder).file_size)

    sizes: list[int] = []
    gradients(loop, offload=to(folder))
    assert len(set(sizes)) == 1


def test_hooks_that_copy_what_is_saved_are_told_that_a_ticket_has_no_copy(folder: Path) -> None:
    def loop(run: Any, model: nn.Module, x: Tensor) -> None:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            run(x).backward()

    with pytest.raises(TransferError, match="ticket is a copy"):
        gradients(loop, offload=to(folder))


def test_a_disk_that_fails_stops_the_step_and_names_the_tensor(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_as(calls := FaultyCalls(), folder, monkeypatch)
    calls.arm("write", 2, Fault.EIO)
    with pytest.raises(TransferError, match="could not be written"):
        gradients(lambda run, model, x: run(x).backward(), offload=to(folder))


@pytest.mark.slow
def test_a_step_in_one_graph_moves_tensors_too(folder: Path) -> None:
    expected, _ = stepped(blocks, rows(), 2)
    found, _ = stepped(blocks, rows(), 2, offload=to(folder), planning_seconds=1.0)
    assert_equal(found, expected)
    assert file_tier(folder).out.traffic.nbytes > 0


def test_sizes_that_change_move_nothing_and_train_alike(folder: Path) -> None:
    def loop(run: Any, model: nn.Module, x: Tensor) -> None:
        for n in (256, 192, 128):
            run(x[:n]).backward()

    expected = gradients(loop)
    assert_equal(gradients(loop, offload=to(folder)), expected)
    assert all(g.planned for g in roam.report().graphs)


def test_an_arena_that_is_kept_moves_tensors_too(folder: Path) -> None:
    def loop(run: Any, model: nn.Module, x: Tensor) -> None:
        for _ in range(3):
            run(x).backward()

    expected = gradients(loop)
    assert_equal(gradients(loop, offload=to(folder), arena="keep"), expected)
    assert file_tier(folder).out.traffic.nbytes > 0
    roam.release()


def no_time() -> Measured:
    """Ops that take next to no time: nothing could move without a stall."""
    return Measured(slower=1e-12, write=1.0, read=1.0, caution=1.25)


def test_steps_that_wait_get_another_plan_and_a_pending_forward_keeps_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loop(run: Any, model: nn.Module, x: Tensor) -> None:
        run(x).backward()
        pending = run(x + 1)
        monkeypatch.setattr(StepWatch, "news", lambda _: no_time())
        written = file_tier(folder).out.traffic.nbytes
        run(x).backward()
        run(x + 2).backward()
        assert file_tier(folder).out.traffic.nbytes == written
        pending.backward()

    monkeypatch.setattr(StepWatch, "news", lambda _: None)
    expected = gradients(loop)
    assert_equal(gradients(loop, offload=to(folder)), expected)
    (graph,) = roam.report().graphs
    assert graph.planned
    assert graph.moved is None


def test_if_no_other_plan_can_be_made_the_first_one_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def loop(run: Any, model: nn.Module, x: Tensor) -> None:
        run(x).backward()
        monkeypatch.setattr(StepWatch, "news", lambda _: no_time())
        monkeypatch.setattr(AtenKernels, "compile", broken)
        run(x).backward()
        run(x).backward()

    def broken(*_: Any) -> None:
        raise RuntimeError("no plan today")

    monkeypatch.setattr(StepWatch, "news", lambda _: None)
    expected = gradients(lambda run, model, x: [run(x).backward() for _ in range(3)])
    assert_equal(gradients(loop, offload=to(folder)), expected)
    assert caplog.text.count("no plan today") == 1
    (graph,) = roam.report().graphs
    assert graph.moved is not None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (3, "is the path of a folder"),
        ("", "is the path of a folder"),
        ("host", "memory of their own"),
    ],
)
def test_what_is_no_folder_is_refused(given: Any, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        torch.compile(nn.Linear(2, 2), backend="roam", options={"offload": given})(torch.ones(2))


def test_inductors_kernels_have_no_transfers_yet(folder: Path) -> None:
    options = {"offload": str(folder), "lowering": "inductor"}
    with pytest.raises(OptionError, match="for ATen's kernels"):
        torch.compile(nn.Linear(2, 2), backend="roam", options=options)(torch.ones(2))


@pytest.mark.parametrize(
    "rates", [{"write": 0.0}, {"read": float("inf")}, {"smallest": 0}, {"verify": "all"}]
)
def test_impossible_rates_are_refused(rates: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="OffloadTo"):
        roam.OffloadTo("/", **rates)


def test_a_plan_offline_needs_no_disk_if_its_rates_are_stated() -> None:
    model = Loss(blocks)
    elsewhere = roam.OffloadTo("/no/such/folder", write=1e13, smallest=256)
    kept = roam.plan(model, rows(), lowering="aten")
    moved = roam.plan(model, rows(), offload=elsewhere)
    assert moved.peak < kept.peak
    assert "moved to /no/such/folder" in str(moved)
    again = StepPlan.from_json(moved.to_json())
    assert again.graphs[0].moved == moved.graphs[0].moved
