"""Budgets as people write them."""

from __future__ import annotations

import pytest

from roam.core.budget import MARGIN, Budget
from roam.core.errors import BudgetError, BudgetFormatError, OptionError


@pytest.mark.parametrize(
    ("given", "transient"),
    [("60%", 60), (" 12.5 % ", 12), ("1KiB", 924), (1000, 900), ("auto", int((1 - MARGIN) * 500))],
)
def test_what_a_step_may_allocate(given: object, transient: int) -> None:
    assert Budget.parse(given).transient(persistent=100, peak=100, free=500) == transient


@pytest.mark.parametrize("given", ["", "12", "12 apples", "-1GiB", "101%", "0%", True, 1.5, [1]])
def test_what_is_no_budget(given: object) -> None:
    with pytest.raises(BudgetFormatError, match="option budget is") as caught:
        Budget.parse(given)
    assert isinstance(caught.value, OptionError)


def test_a_budget_below_what_is_there_all_the_time() -> None:
    with pytest.raises(BudgetError, match=r"below the 2\.00 KiB that parameters"):
        Budget.parse("1KiB").transient(persistent=2048, peak=1, free=1)
