"""A segment of a phase: ops that run between two key points, and the search that ordered them."""

from __future__ import annotations

from dataclasses import dataclass

from roam.core.problem import OpId


@dataclass(frozen=True)
class Segment:
    """Some ops of a phase that run one after another.

    Attributes:
        phase: the index of the phase.
        ops: in the order in which they run.
        solver: the search that found the order; " + " joins several.
        bound: bytes that every order of these ops takes at least, between the same key points; 0
            if nobody asked.
    """

    phase: int
    ops: tuple[OpId, ...]
    solver: str
    bound: int = 0
