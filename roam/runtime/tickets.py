"""Tickets: the tensors by which ops of a graph know things that are no tensors.

A ticket is a tensor of one number, whose memory carries what it stands for as an attribute. So what
it stands for lives as long as that memory, whoever holds it: autograd, between forward and
backward, or a graph that is kept. A copy of a ticket is none.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def issue(thing: object, number: int = 0) -> Tensor:
    """Returns a ticket for a thing. number: its one element, for people who look at it."""
    ticket = torch.tensor([number], dtype=torch.int64)
    ticket.untyped_storage().roam_ticket = thing  # type: ignore[attr-defined]
    return ticket


def look_up(ticket: Tensor, kind: type[T]) -> T | None:
    """Returns what a ticket stands for; None if that is of another kind, or this is a copy."""
    found = getattr(ticket.untyped_storage(), "roam_ticket", None)
    return found if isinstance(found, kind) else None
