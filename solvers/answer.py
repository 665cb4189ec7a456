"""The result type of all searches: what was found, its bytes, a proven bound, and the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(StrEnum):
    """How a search ended.

    A search for the fewest bytes ends with OPTIMAL or FEASIBLE. A search that is given a limit in
    bytes ends with FITS, DOES_NOT_FIT or UNKNOWN.
    """

    OPTIMAL = "OPTIMAL"  # proven: no order, or no packing, takes fewer bytes than the one found
    FEASIBLE = "FEASIBLE"  # an order or packing was found, but takes more bytes than the bound
    FITS = "FITS"  # an order or packing within the limit was found
    DOES_NOT_FIT = "DOES_NOT_FIT"  # proven: no order, or no packing, keeps within the limit
    UNKNOWN = "UNKNOWN"  # the search gave up: it neither found a fit nor proved that there is none


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The answer of one search.

    Attributes:
        found: what the search found: an order, a packing or a proof.
        value: bytes: the peak of the order found, the height of the packing found, or a limit that
            either keeps within.
        bound: bytes below which no order, or no packing, can go; proven.
        status: how the search ended.
        work: the number of steps that the search took. The docstring of each search says what its
            steps are, such as ops run.
    """

    found: T
    value: int
    bound: int
    status: Outcome
    work: int


def minimized(found: T, value: int, bound: int, work: int) -> Answer[T]:
    """Returns the answer of a search for the fewest bytes.

    Its status is OPTIMAL if `value` is at most `bound`, and FEASIBLE otherwise.
    """
    status = Outcome.OPTIMAL if value <= bound else Outcome.FEASIBLE
    return Answer(found, value, bound, status, work)
