"""The result type of all searches: what was found, its bytes, a proven bound, and the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(StrEnum):
    """How a search ended.

    A search for the fewest bytes ends with one of the first two outcomes. A search that is given a
    limit in bytes ends with one of the other three.
    """

    OPTIMAL = "OPTIMAL"  # proven: nothing takes fewer bytes
    FEASIBLE = "FEASIBLE"  # the search gave up: the value is still above the bound
    FITS = "FITS"  # what was found keeps within the limit
    DOES_NOT_FIT = "DOES_NOT_FIT"  # proven: the bound is above the limit
    UNKNOWN = "UNKNOWN"  # the search gave up: nothing found within the limit, and no proof


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The answer of one search.

    Attributes:
        found: what the search found: an order, a packing or a proof.
        value: bytes: the peak or height of what was found, or a limit that it keeps within.
        bound: bytes below which no order, or no packing, can go; proven.
        status: how the search ended.
        work: the steps of the search. Its docstring says what it counts (such as ops run).
    """

    found: T
    value: int
    bound: int
    status: Outcome
    work: int


def minimized(found: T, value: int, bound: int, work: int) -> Answer[T]:
    """Returns the answer of a search for the fewest bytes: OPTIMAL if `value` is within `bound`."""
    status = Outcome.OPTIMAL if value <= bound else Outcome.FEASIBLE
    return Answer(found, value, bound, status, work)
