"""A segment of a phase: ops that run between two key points, and the search that ordered them."""

from __future__ import annotations

from dataclasses import dataclass

from roam.core.problem import OpId


@dataclass(frozen=True)
class Segment:
    """Ops of a phase that run one after another, between two moments with few live bytes.

    Attributes:
        phase: the index of the phase.
        ops: the ids of the ops, in the order in which they run.
        solver: the name of the search that found the order; several are joined by " + ".
        bound: a lower bound, in bytes, on the peak of every order of these ops between the same two
            key points; 0 if none was computed.
    """

    phase: int
    ops: tuple[OpId, ...]
    solver: str
    bound: int = 0
