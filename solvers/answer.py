"""What every search returns: the best that it found, what nothing goes below, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(StrEnum):
    """How a search ended: the first two if it minimized, the others if it was given a limit."""

    OPTIMAL = "OPTIMAL"  # value = bound
    FEASIBLE = "FEASIBLE"  # the search gave up before the two met
    FITS = "FITS"  # what was found keeps within the limit
    DOES_NOT_FIT = "DOES_NOT_FIT"  # proven: bound > limit
    UNKNOWN = "UNKNOWN"  # the search gave up: nothing found within the limit, and no proof


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The answer of one search.

    found: an order, a packing, a proof. value: bytes that it takes at most. bound: bytes below
    which nothing goes; proven. status: how the search ended. work: steps that it took, each search
    in its own (ops run, nodes, annealings, flows).
    """

    found: T
    value: int
    bound: int
    status: Outcome
    work: int


def minimized(found: T, value: int, bound: int, work: int) -> Answer[T]:
    """Returns the answer of a search for the lowest value: optimal if that is as low as a bound."""
    status = Outcome.OPTIMAL if value <= bound else Outcome.FEASIBLE
    return Answer(found, value, bound, status, work)
