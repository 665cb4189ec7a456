"""What plans say of gradients that are folded."""

from __future__ import annotations

import pytest
from torch import nn

import roam
from roam.bench.zoo import TINY, loss_of
from roam.core.problem import Kind
from roam.inspect.gradients import gradient_lives, most_alive
from roam.optim import AdamA
from tests.helpers import mlp, random, unfused
from tests.releases import problem, trained


def test_released_gradients_are_temporaries_and_states_are_persistent() -> None:
    reference, _ = trained(mlp)
    kinds = [b.kind for b in problem().buffers]
    assert Kind.GRADIENT not in kinds
    assert kinds.count(Kind.RELEASED) == 4
    weights = sum(p.nbytes for p in reference.parameters())
    state = sum(b.size for b in problem().buffers if b.kind is Kind.STATE)
    assert state == 2 * weights + 4 * 4  # two moments, and a count of steps each


def test_the_parameter_is_written_after_its_last_reader() -> None:
    trained(mlp)
    p = problem()
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    time = {i: t for t, i in enumerate(plan.order)}
    for b, buffer in enumerate(p.buffers):
        if buffer.kind is Kind.PARAMETER:
            [fold] = [i for i in p.users[b] if b in p.ops[i].mutates]
            assert all(time[i] <= time[fold] for i in p.users[b])


@pytest.mark.usefixtures("everything_placed")
def test_planned_is_measured() -> None:
    model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
    optimizer = AdamA(model.parameters())
    compiled = unfused(model, optimizer=optimizer)

    def step() -> None:
        compiled(random(32, 256)).square().mean().backward()
        optimizer.step()

    step()
    plan = roam.report().graphs[0].plan
    assert plan is not None
    outside = 32 * 256 * 4 * 3  # the batch, and the loss with its gradient: not the graph's
    found = roam.measure_peak(step).peak
    assert plan.peak <= found <= plan.peak + outside


def test_no_more_than_two_weight_gradients_are_alive_at_once() -> None:
    """Release edges are worth something only if the folds come early."""
    model = TINY["gpt2"].build()
    optimizer = AdamA(model.parameters())
    options = {"optimizer": optimizer}
    compiled = unfused(lambda **b: loss_of(model(**b)), **options)
    compiled(**TINY["gpt2"].batch()).backward()
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    smallest = 1024  # bytes: a weight, not a bias
    lives = [g for g in gradient_lives(problem(), plan) if g.size > smallest]
    assert len(lives) == 10
    assert all(g.folded_by is not None and g.ops <= 2 for g in lives)
    alive = [sum(g.lower <= t < g.upper for g in lives) for t in range(len(plan.order))]
    assert max(alive) <= 2


def test_a_plan_tells_the_life_of_every_gradient() -> None:
    model = mlp()
    options = {"optimizer": AdamA(model.parameters())}
    unfused(model, **options)(random(5, 8)).sum().backward()
    plan = roam.report().graphs[0].plan
    assert plan is not None
    lives = gradient_lives(problem(), plan)
    assert [g.folded_by for g in lives] == [
        "fold_2.bias",
        "fold_2.weight",
        "fold_0.bias",
        "fold_0.weight",
    ]
    for g in lives:
        fold = problem().ops[plan.order[g.upper - 1]]
        assert fold.name == g.folded_by
        assert g.ops >= 1
    assert most_alive(lives) <= 2 * max(g.size for g in lives)
    kept = roam.plan(mlp(), random(5, 8), loss=lambda y: y.sum())
    assert [g.folded_by for g in kept.gradients] == [None] * 4
    assert "gradients are folded" not in str(kept)
