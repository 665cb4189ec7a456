"""The inductor lowering: never above Inductor's peak, as exact as Inductor, planned = measured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config

import roam
from roam.bench.batches import Batch
from roam.bench.zoo import TINY, loss
from roam.core.errors import OptionError, UnplannedWarning
from roam.core.problem import Kind
from roam.lowering.inductor import entry, order
from roam.optim import AdamA
from tests.helpers import assert_counts, fused, mlp, random, some_slow
from tests.models.test_zoo_architectures import CORE

pytestmark = pytest.mark.usefixtures("shared_kernels")


def gradients(
    model: nn.Module, batch: dict[str, Tensor], step: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """The loss and the gradients of one step."""
    model.zero_grad(set_to_none=True)
    value = step(model, batch)
    value.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"loss": value.detach(), **found}


def shared(model: nn.Module) -> set[str]:
    """The parameters that several modules hold, as the head and the embedding may."""
    every = [p for _, p in model.named_parameters(remove_duplicate=False)]
    return {n for n, p in model.named_parameters() if sum(p is other for other in every) > 1}


class Tied(nn.Module):
    """A head that is the embedding, as gpt2's, with fewer kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(64, 16), nn.Linear(16, 64, bias=False)
        self.head.weight = self.embed.weight
        self.layer = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(ids)
        logits = self.head(hidden + self.layer(hidden))
        return {"loss": nn.functional.cross_entropy(logits, ids)}


def tied() -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    return Tied(), {"ids": torch.arange(24) * 5 % 64}


def of_zoo(name: str) -> tuple[nn.Module, Batch]:
    return TINY[name].build().eval(), TINY[name].batch()


STEPS = {"tied": tied, **{name: partial(of_zoo, name) for name in CORE}}


@pytest.mark.parametrize(
    "settings", [{}, pytest.param({"cpp_wrapper": True}, marks=pytest.mark.slow)]
)
def test_a_saved_tensor_that_no_kernel_reads_is_freed_before_the_first(
    settings: dict[str, Any],
) -> None:
    """The backward of an average pooling takes the pooled tensor, and looks at its shape only.

    Inductor's code would hold it to the end: an EfficientNet took 10,240 bytes more than planned.
    """
    layer, x = nn.Linear(8, 256, bias=False), random(1, 1, 256, 8)
    run = fused(lambda x: nn.functional.avg_pool2d(layer(x), 2).square().mean())

    def step() -> None:
        torch.autograd.grad(run(x), [layer.weight])

    with config.patch(settings):
        measured = roam.measure_peak(step, warm_up=step).peak
    [(problem, plan)] = roam.report().step.planned
    pooled = 4 * 256 * 256
    assert pooled in {b.size for b in problem.buffers if b.kind is Kind.SAVED}
    assert measured == plan.peak < 1.5 * pooled


@pytest.mark.parametrize("build", some_slow(STEPS, ["tied"]))
def test_a_step(build: Callable[[], tuple[nn.Module, Batch]]) -> None:
    """Inductor's bits, so its error from float64 too; never above its peak; as planned.

    The gradient of a weight that is used more than once is a sum in another order.
    """
    model, batch = build()

    def measured(step: Callable[..., Tensor]) -> tuple[dict[str, Tensor], int]:
        def run() -> None:
            step(model, batch).backward()
            model.zero_grad(set_to_none=True)

        found = gradients(model, batch, step)
        return found, roam.measure_peak(run, warm_up=run).peak

    theirs, their_peak = measured(torch.compile(loss, backend="inductor"))
    torch._dynamo.reset()
    ours, our_peak = measured(fused(loss))

    different = {n for n in theirs if not torch.equal(ours[n], theirs[n])}
    assert different <= shared(model)
    for name in different:
        torch.testing.assert_close(ours[name], theirs[name])
    assert our_peak <= their_peak
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    assert plan.peak == our_peak


def test_folded_gradients_train_the_same_in_less() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.LayerNorm(64))
    theirs = copy.deepcopy(ours)
    x = random(4, 64)
    folding = AdamA(ours.parameters(), lr=1e-2)
    usual = torch.optim.AdamW(theirs.parameters(), lr=1e-2, fused=True)
    steps = (
        _training(fused(ours, optimizer=folding), folding, x),
        _training(torch.compile(theirs), usual, x),
    )
    for _ in range(3):
        for step in steps:
            step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.grad is None
        assert torch.equal(p, q)
    mine, usual_peak = (roam.measure_peak(step, warm_up=step).peak for step in steps)
    assert mine < 0.6 * usual_peak  # what is left is the largest gradient, not all of them

    plan = roam.report().graphs[-1].plan
    assert plan is not None
    state = sum(2 * p.nbytes + 4 for p in ours.parameters())
    assert plan.persistent == sum(p.nbytes for p in ours.parameters()) + x.nbytes + state


def _training(model: Any, optimizer: Any, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def test_a_parameter_that_two_calls_use_is_folded_once_its_gradient_is_complete() -> None:
    ours, x, y = mlp(), random(5, 8), random(3, 8)
    theirs = copy.deepcopy(ours)
    folding = AdamA(ours.parameters(), lr=1e-2)
    usual = torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    twice = ((fused(ours, optimizer=folding), folding), (theirs, usual))
    for _ in range(2):
        for model, optimizer in twice:
            (model(x).sum() + model(y).square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert sum(roam.report().detours.values()) > 0


def test_micro_batches_fold_into_the_state_alone() -> None:
    """Then the fold changes no parameter, and nothing in the graph but the gradient's end."""
    ours, x = mlp(), random(5, 8)
    theirs = copy.deepcopy(ours)
    pair = [
        (model, AdamA(m.parameters(), lr=1e-2, mode="accumulate", micro_batches=2))
        for model, m in ((None, ours), (theirs, theirs))
    ]
    model = fused(ours, optimizer=pair[0][1])
    for run, optimizer in ((model, pair[0][1]), (theirs, pair[1][1])):
        for _ in range(2):
            run(x).square().mean().backward()
        optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        assert p.grad is None


def test_an_unknown_version_says_so_once_and_folds_nothing(monkeypatch: Any) -> None:
    monkeypatch.setattr(entry, "TESTED", ("1.0",))
    entry.is_tested.cache_clear()
    try:
        model, x = mlp(), random(5, 8)
        optimizer = AdamA(model.parameters(), lr=1e-2)
        step = _training(fused(model, optimizer=optimizer), optimizer, x)
        with pytest.warns(UnplannedWarning, match=r"tested with torch 1\.0"):
            step()
        step()
        assert_counts(planned=1)
        graph = roam.report().graphs[0]
        assert graph.problem is not None
        assert [op.name for op in graph.problem.ops if "fold" in op.name] == []
        assert all(p.grad is None for p in model.parameters())  # the hooks folded them
    finally:
        entry.is_tested.cache_clear()


def test_what_cannot_be_read_runs_in_inductors_own_order(monkeypatch: Any) -> None:
    def gone(*_: Any) -> None:
        raise AttributeError("another version of Inductor")

    monkeypatch.setattr(order, "read", gone)
    model, x = mlp(), random(5, 8)
    with pytest.warns(UnplannedWarning, match="leaves the order of .* to Inductor"):
        found = fused(model)(x)
    torch.testing.assert_close(found, model(x))
    assert roam.report().unplanned == 1


def test_a_wrong_lowering_is_an_option_error() -> None:
    model = torch.compile(mlp(), backend="roam", options={"lowering": "triton"})
    with pytest.raises(OptionError, match="lowering is 'aten' or 'inductor', not 'triton'"):
        model(random(5, 8))
