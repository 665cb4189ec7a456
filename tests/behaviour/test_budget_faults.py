"""A share under whatever a training loop does: the bits of aot_eager, and a peak that keeps it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

import roam
from roam.core.errors import BudgetError
from roam.optim import AdamA
from tests.behaviour.budget_loops import (
    ROWS,
    SLACK,
    WIDTH,
    Attention,
    Checkpointed,
    Frozen,
    InPlace,
    Loop,
    Looped,
    Loss,
    again,
    asked,
    blocks,
    broken,
    deeper,
    evaluated,
    half,
    hooked,
    once,
    shorter,
    trained,
    twice,
)
from tests.helpers import assert_equal, random, unfused

slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("nothing_is_pending")


@pytest.mark.parametrize(
    ("make", "loop", "share"),
    [
        pytest.param(
            lambda: nn.Sequential(*map(Attention, [True] * 3)), once, 50, id="sdpa", marks=slow
        ),
        pytest.param(
            lambda: nn.Sequential(*map(Attention, [False] * 3)), once, 50, id="softmax", marks=slow
        ),
        pytest.param(InPlace, once, 70, id="in place", marks=slow),
        pytest.param(Frozen, once, 70, id="frozen", marks=slow),
        pytest.param(lambda: blocks(Checkpointed), once, 85, id="checkpoint", marks=slow),
        pytest.param(blocks, asked, 70, id="autograd.grad", marks=slow),
        pytest.param(blocks, twice, 70, id="two forwards"),
        pytest.param(blocks, half, 80, id="autocast", marks=slow),
        pytest.param(blocks, evaluated, 70, id="eval", marks=slow),
        pytest.param(broken, once, 80, id="graph breaks"),
        pytest.param(lambda: blocks(Looped), once, 85, id="graph breaks in a loop", marks=slow),
        pytest.param(blocks, shorter, 70, id="dynamic", marks=slow),
    ],
)
def test_a_share_is_of_what_the_same_loop_takes_without_it(
    make: Callable[[], nn.Module], loop: Loop, share: int
) -> None:
    expected, _ = trained(make, loop, "aot_eager")
    _, without = trained(make, loop, "roam")
    found, peak = trained(make, loop, "roam", budget=f"{share}%")
    assert_equal(found, expected)
    assert any(g.recomputed and g.recomputed.modules for g in roam.report().graphs)
    assert peak <= without * share // 100 + SLACK


@pytest.mark.slow
@pytest.mark.parametrize("loop", [again, pytest.param(hooked, marks=slow)])
def test_a_backward_without_its_plan_keeps_its_share_or_does_not_run(loop: Loop) -> None:
    """What it takes depends on what the forward saves, and not on the peak that was planned."""
    expected, _ = trained(deeper, loop, "aot_eager")
    _, without = trained(deeper, loop, "roam")
    kept = 0
    for share in (50, 100):
        with contextlib.suppress(BudgetError):
            found, peak = trained(deeper, loop, "roam", budget=f"{share}%")
            assert_equal(found, expected)
            assert peak <= without * share // 100 + SLACK
            kept += 1
    assert kept > 0


def test_gradients_that_may_not_be_folded_do_not_exceed_it() -> None:
    """autograd.grad wants the gradients, and the plan counted on folding them."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = Loss(blocks()), random(ROWS, WIDTH)
    optimizer = AdamA(model.parameters(), lr=1e-3)
    run = unfused(model, optimizer=optimizer, budget="60%")
    once(run, model, x)
    optimizer.step()
    with pytest.raises(BudgetError, match=r"autograd\.grad wants it"):
        asked(run, model, x)
    once(run, model, x)
    optimizer.step()
