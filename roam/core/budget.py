"""A byte budget as people write it: "12GiB", "60%" or "auto"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from roam.core.errors import BudgetError, BudgetFormatError, ShareFormatError, SizeFormatError
from roam.core.machine import Bytes
from roam.core.sizes import parse_share, parse_size, show_size


class Of(StrEnum):
    """What a budget limits."""

    TOTAL = "total"  # what is there all the time, and what the step allocates
    SHARE = "share"  # what the step allocates, as a share of that without a budget
    FREE = "free"  # what the step allocates: what is free when the graph is compiled, less a margin


MARGIN = 0.1  # share of the free bytes that "auto" leaves, for what torch's allocator does not see


@dataclass(frozen=True)
class Beside:
    """What other graphs of the same step take while a graph runs, in bytes.

    Attributes:
        now: what they hold: saved tensors, outputs, gradients.
        without: what those of them whose backward is still to run would hold without a budget.
        persistent: their parameters, states and inputs, those left out that the graph uses as well.
    """

    now: Bytes = 0
    without: Bytes = 0
    persistent: Bytes = 0


@dataclass(frozen=True)
class Following:
    """What the graphs of a step took that ran between the forward and the backward of one graph.

    Both figures are bytes beyond those that there were when the forward had run.

    Attributes:
        most: at the worst moment, parameters of their own included.
        left: when the backward began: gradients, outputs, and parameters of their own.
    """

    most: Bytes
    left: Bytes


@dataclass(frozen=True)
class Budget:
    """The most bytes that a step may take.

    The graphs of a step share it. While one runs, others may hold memory: those that ran before it,
    and those that ran between its forward and its backward. It may allocate what these leave.

    Attributes:
        of: what is limited.
        amount: bytes of a TOTAL; a number from 0 to 1 of a SHARE; of FREE the bytes that are free
            on the rank that has least, inf for a process that trains alone.
        text: as the user wrote it.
    """

    of: Of
    amount: float
    text: str

    @staticmethod
    def parse(given: object) -> Budget:
        """Reads a budget. Raises BudgetFormatError."""
        if isinstance(given, Budget):
            return given
        ways = "a size such as '12GiB', a share such as '60%' of the peak without it, or 'auto'"
        wrong = BudgetFormatError(f"option budget is {ways}, not {given!r}")
        if given == "auto":
            return Budget(Of.FREE, inf, "auto")
        if isinstance(given, str) and given.rstrip().endswith("%"):
            try:
                return Budget(Of.SHARE, parse_share(given), given.strip())
            except ShareFormatError:
                raise BudgetFormatError(
                    f"option budget is {given!r}: a share is above 0 % and at most 100 % of the "
                    "peak without a budget"
                ) from None
        if isinstance(given, bool) or not isinstance(given, (str, int)):
            raise wrong
        try:
            size = parse_size(given)
        except SizeFormatError:
            raise wrong from None
        return Budget(Of.TOTAL, size, given if isinstance(given, str) else show_size(given))

    def transient(
        self, persistent: Bytes, peak: Bytes, free: Bytes, beside: Beside | None = None
    ) -> Bytes:
        """Returns the bytes that a graph may allocate.

        Args:
            persistent: bytes of its parameters, states and inputs.
            peak: bytes that it allocates without a budget.
            free: bytes that are free on this rank's device.
            beside: what other graphs of the step take; None if there are none.

        Raises:
            BudgetError: the persistent bytes alone are above the budget.
        """
        beside = beside or Beside()
        if self.of is Of.SHARE:
            return int(self.amount * (beside.without + peak)) - beside.now
        if self.of is Of.FREE:
            return int((1 - MARGIN) * (free if self.amount == inf else self.amount))
        there = persistent + beside.persistent
        if self.amount < there:
            raise BudgetError(
                f"a budget of {self.text} is below the {show_size(there)} that parameters, "
                "optimizer state and inputs take by themselves: a smaller batch, a smaller model "
                "or parameters of a smaller type would lower that",
                budget=int(self.amount),
                least=there,
            )
        return int(self.amount) - there - beside.now
