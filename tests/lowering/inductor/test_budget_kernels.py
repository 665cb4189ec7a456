"""Whatever a graph is compiled for later, its plan is within the budget or it does not run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from roam.core.errors import BudgetError
from roam.inspect.recomputed import Recomputed
from roam.lowering.inductor.budget import Fitted
from roam.lowering.inductor.budget_kernels import BudgetKernels
from roam.options import Options


@pytest.fixture
def kernels() -> BudgetKernels:
    graph: Any = SimpleNamespace(name="graph")
    reports: Any = None
    fit = Fitted(None, None, 100, 90, Recomputed("75%", 100, 133, 0.0))
    return BudgetKernels(graph, Options(), reports, may_fold=True, fit=fit)


def test_a_plan_above_the_limit_is_refused(kernels: BudgetKernels) -> None:
    """As of a backward that folds fewer gradients than the one that was tried."""
    note: Any = SimpleNamespace(plan=SimpleNamespace(peak=101))
    one: Any = None
    with pytest.raises(BudgetError, match=r"takes 101 B, .* 75% leaves 100 B"):
        kernels.take(note, one)


def test_what_has_no_plan_is_refused(kernels: BudgetKernels) -> None:
    one: Any = None
    with pytest.raises(BudgetError, match="no plan"):
        kernels.take(None, one)
    with pytest.raises(BudgetError, match=r"no plan, .*a reason"):
        kernels.unplanned(ValueError("a reason"))
