"""Defines the result of a search: what it found, the peak or height in bytes, and a bound."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(StrEnum):
    """How a search ended.

    A search for the order with the lowest peak, or for the lowest packing, ends with OPTIMAL or
    FEASIBLE. A search for any order whose peak, or any packing whose height, is at most a given
    number of bytes ends with FITS, DOES_NOT_FIT or UNKNOWN. If such a search assumes more in-place
    writes than the order found allows, its docstring says so: the peak has to be measured then.
    """

    OPTIMAL = "OPTIMAL"  # proven: no order has a lower peak, or no packing is lower
    FEASIBLE = "FEASIBLE"  # an order or packing was found, but not proven to be the best
    FITS = "FITS"  # found an order or a packing that takes no more bytes than allowed
    DOES_NOT_FIT = "DOES_NOT_FIT"  # proven: every order, or packing, takes too many bytes
    UNKNOWN = "UNKNOWN"  # found nothing that fits, and did not prove that nothing does


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The answer of one search.

    Attributes:
        found: what the search found: an order, a packing or a proof; None if it found nothing.
        value: the peak of the order found or the height of the packing found, in bytes. A search
            that only decides whether an order keeps within a limit returns that limit, whatever it
            finds.
        bound: a proven lower bound on the peak of every order, or on the height of every packing,
            in bytes; 0 if no bound was proven. If the caller gave the search a number of bytes as
            its bound, and the search proves no higher bound, it returns that number, proven or not.
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
    """Returns the answer of a search for the lowest peak, the lowest packing or a higher bound.

    The answer's status is OPTIMAL if `value` is at most `bound`, and FEASIBLE otherwise. OPTIMAL is
    a proof only if `bound` is proven.

    Args:
        found: the order or packing found; of a search for a bound, the proof of `bound`.
        value: the peak of the order found, or the height of the packing, in bytes; of a search for
            a bound, the peak of the order that it was given.
        bound: a lower bound on the peak of every order, or the height of every packing, in bytes;
            or the bytes at which the caller let the search end, proven or not.
        work: the number of steps that the search took.
    """
    status = Outcome.OPTIMAL if value <= bound else Outcome.FEASIBLE
    return Answer(found, value, bound, status, work)
