"""Large gradients that are made and folded one block of rows after another."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.problem import Kind
from roam.optim import AdamA, SlimAdamA
from tests.helpers import fused, some_slow, unfused

WORDS, WIDTH = 10_000, 1024  # a gradient of 39 MiB: three blocks
GRADIENT = 4 * WORDS * WIDTH


class Words(nn.Module):
    """An embedding, a layer, and a head, which may be the embedding."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.layer(self.embed(ids)).tanh()
        return nn.functional.cross_entropy(self.head(hidden), ids)


def ids(micro_batch: int) -> Tensor:
    return torch.arange(8 * micro_batch, 8 * micro_batch + 8).repeat(2)


def train(model: nn.Module, loss: Any, optimizer: Any, micro_batches: int) -> None:
    for step in range(2):
        for i in range(micro_batches):
            loss(ids(step + i)).backward()
        optimizer.step()


LOWERINGS = {"aten": unfused, "inductor": fused}
CASES = {
    f"{lowering}-{n}-{'tied' if tied else 'untied'}": (lowering, n, tied)
    for lowering in LOWERINGS
    for n in (1, 2)
    for tied in (True, False)
}


@pytest.mark.parametrize(
    ("lowering", "micro_batches", "tied"),
    some_slow(CASES, ["aten-2-tied", "inductor-1-untied"]),
)
def test_no_gradient_of_a_large_weight_exists_whole(
    lowering: str, micro_batches: int, tied: bool
) -> None:
    """Weights and states are those of whole gradients, up to rounding."""
    torch.manual_seed(0)
    model = Words(tied=tied)
    whole = copy.deepcopy(model)
    how = {"mode": "accumulate" if micro_batches > 1 else "release", "micro_batches": micro_batches}
    optimizer, other = (AdamA(m.parameters(), lr=1e-3, eps=1e-2, **how) for m in (model, whole))
    train(whole, whole, other, micro_batches)
    roam.reset_report()
    run = LOWERINGS[lowering](model, optimizer=optimizer, split=True)
    train(model, run, optimizer, micro_batches)
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        for name, state in optimizer.state[p].items():
            torch.testing.assert_close(state, other.state[q][name], rtol=1e-4, atol=1e-6)
    (graph,) = roam.report().graphs
    problem = graph.problem
    assert problem is not None
    assert max(b.size for b in problem.buffers if b.kind is not Kind.STATE and b.transient) < (
        GRADIENT / 2
    )
    folds = [op.name for op in problem.ops if op.name.startswith("fold_") and "#" in op.name]
    assert len(folds) == (3 if tied else 6)
    assert graph.plan is not None
    assert graph.plan.peak < GRADIENT


@pytest.mark.parametrize(
    "lowering", some_slow(dict(zip(LOWERINGS, LOWERINGS, strict=True)), ["aten"])
)
def test_what_is_planned_is_what_a_step_takes(lowering: str) -> None:
    model = Words(tied=True)
    optimizer = AdamA(model.parameters())
    run = LOWERINGS[lowering](model, optimizer=optimizer, split=True)

    def step() -> None:
        run(ids(0)).backward()
        optimizer.step()

    step()  # which makes the states, too
    measured = roam.measure_peak(step).peak
    [(_, plan)] = roam.report().step.planned
    assert 0 <= measured - plan.peak <= 256  # the loss, and numbers of the optimizer
    assert plan.peak < GRADIENT


def test_a_second_moment_of_a_row_is_folded_by_rows_and_one_of_a_column_is_not() -> None:
    with torch.device("meta"):
        model = Words(tied=False)
    rules = {"embed.weight": (1,), "head.weight": (0,)}
    optimizer = SlimAdamA(model.named_parameters(), rules)
    gradient = torch.empty(WORDS, WIDTH, device="meta")
    embedding = optimizer.needs(model.embed.weight, gradient)
    head = optimizer.needs(model.head.weight, gradient)
    assert embedding.by_rows is not None
    assert head.by_rows is None


def test_without_being_asked_gradients_are_folded_whole() -> None:
    """The bits of blocks may differ from those of torch's AdamW."""
    model = Words(tied=True)
    optimizer = AdamA(model.parameters())
    roam.reset_report()
    unfused(model, optimizer=optimizer)(ids(0)).backward()
    problem = roam.report().graphs[0].problem
    assert problem is not None
    assert not any("#" in op.name for op in problem.ops)


def test_the_plan_says_which_gradients_are_folded_in_blocks() -> None:
    with torch.device("meta"):
        model = Words(tied=True)
    optimizer = AdamA(model.parameters())
    plan = roam.plan(model, ids(0), optimizer=optimizer, lowering="aten", options={"split": True})
    (told,) = plan.explain().splits
    assert str(told) == (
        "the gradient of embed.weight is made and folded in 3 blocks of rows: "
        "16.00 MiB at a time of 39.06 MiB"
    )
