"""What proves a lower bound: a plan names it, so that others can prove the bound again.

Kept        what the user keeps is alive when the last op has run
MustLive    so many bytes are alive while one op runs, whatever ran before    core/bounds.py
Cut         so many are alive at the cheapest moment of one op                solvers/bound/
Search      no order of one phase keeps below                                 solvers/order/
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from roam.core.errors import FigureError
from roam.core.problem import OpId, Problem

LONGEST = 10  # digits of a phase


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="kept"):
    """The buffers that the user keeps are alive together at the end."""


class MustLive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="must-live"):
    """While `op` runs, what its ancestors made and its descendants use is alive."""

    op: OpId


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cut"):
    """No set of ops that can have run before `op` leaves fewer bytes alive."""

    op: OpId


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="search"):
    """No order of `phase` keeps below the bound: every one was ruled out."""

    phase: int


class Unknown(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="unknown"):
    """A bound without a reason, as in plans that no planner made."""


Proof = Kept | MustLive | Cut | Search | Unknown
UNKNOWN = Unknown()


class Bound(NamedTuple):
    """A lower bound in bytes, and what proves it."""

    value: int
    proof: Proof


def proof_to_text(proof: Proof, ops: Sequence[str]) -> str:
    """Returns one word of a proof, with the name of its op: `cut:mm_3`."""
    match proof:
        case MustLive(op):
            return f"must-live:{ops[op]}"
        case Cut(op):
            return f"cut:{ops[op]}"
        case Search(phase):
            return f"search:{phase}"
        case Kept():
            return "kept"
        case Unknown():
            return "unknown"


def show_proof(proof: Proof, problem: Problem) -> str:
    """Returns a proof in words: "cut at mm_3"."""
    kind, _, of = proof_to_text(proof, [op.name for op in problem.ops]).partition(":")
    return f"{kind} of phase {of}" if kind == "search" else f"{kind} at {of}" if of else kind


def proof_from_text(text: str, op: Callable[[str], OpId]) -> Proof:
    """Reads what `proof_to_text` writes. Raises ValueError, as `op` does for a name."""
    kind, _, of = text.partition(":")
    match kind:
        case "must-live":
            return MustLive(op(of))
        case "cut":
            return Cut(op(of))
        case "search" if of.isdecimal() and len(of) < LONGEST:
            return Search(int(of))
        case "kept":
            return Kept()
        case "unknown":
            return UNKNOWN
    raise ValueError("kept, must-live:OP, cut:OP, search:PHASE or unknown")


def check_proof(proof: Proof, problem: Problem) -> None:
    """Raises FigureError if a proof names an op or a phase that the problem does not have."""
    match proof:
        case MustLive(op) | Cut(op) if not 0 <= op < len(problem.ops):
            raise FigureError(f"the bound is proven by op {op}, of {len(problem.ops)} ops")
        case Search(phase) if not 0 <= phase < len(problem.phases):
            raise FigureError(f"the bound is proven in phase {phase}, of {len(problem.phases)}")
