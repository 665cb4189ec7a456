"""Which gradients a backward may fold, and into whose state.

A graph is planned once, but may run with other parameters each time (one block compiled for all
layers), twice before its backward (a siamese net), or share a parameter with a second graph (a
graph break). So every forward that runs leaves a ticket, which binds the plan's folds to the
parameters it ran with; its backward finds the ticket on a saved tensor.

A gradient is complete within a graph only if no other pending forward uses the parameter. Where
one does, the backward returns its gradients, autograd adds them up, and the optimizer's hooks
fold the sum: the way every gradient goes that is not folded in a graph.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from roam.lowering.aten import Lowered
from roam.optim.folding import FoldingOptimizer


@dataclass(eq=False)
class Ticket:
    """One forward that ran, and the parameters whose gradients its backward folds, by input."""

    lowered: Lowered
    optimizer: FoldingOptimizer
    parameters: dict[int, Parameter]
    done: bool = False

    @property
    def ids(self) -> set[int]:
        return {id(p) for p in self.parameters.values()}

    def absorb(self, index: int, gradient: Tensor) -> None:
        self.optimizer.absorb(self.parameters[index], gradient)

    def may_fold(self, task: int) -> bool:
        return Claims.of(self.optimizer).may_fold(self, task)

    def leave_on(self, tensor: Tensor) -> None:
        """The ticket lives as long as the saved tensor's memory: a dropped graph drops it."""
        tensor.untyped_storage().roam_ticket = self  # type: ignore[attr-defined]
        Claims.of(self.optimizer).issue(self)

    @staticmethod
    def found_on(args: Sequence[Any]) -> Ticket | None:
        tensors = (a for a in args if isinstance(a, Tensor))
        marks = (getattr(t.untyped_storage(), "roam_ticket", None) for t in tensors)
        return next((m for m in marks if isinstance(m, Ticket)), None)


@dataclass(eq=False)
class Claims:
    """The pending forwards of one optimizer's parameters.

    shared: parameters that were met twice in one backward. No graph folds their gradients again.
    """

    shared: set[int] = field(default_factory=set)  # ids: the optimizer keeps its parameters
    tickets: weakref.WeakSet[Ticket] = field(default_factory=weakref.WeakSet)
    lock: threading.Lock = field(default_factory=threading.Lock)
    task: int = -1
    contested: set[int] = field(default_factory=set)
    met: set[int] = field(default_factory=set)

    @staticmethod
    def of(optimizer: FoldingOptimizer) -> Claims:
        with _lock:
            return _claims.setdefault(optimizer, Claims())

    def wanted(self, optimizer: FoldingOptimizer, args: Sequence[Any]) -> dict[int, Parameter]:
        """The parameters among a forward's inputs whose gradients may be folded in its graph."""
        return {
            i: a
            for i, a in enumerate(args)
            if isinstance(a, Parameter)
            and a.requires_grad
            and optimizer.holds(a)
            and id(a) not in self.shared
        }

    def issue(self, ticket: Ticket) -> None:
        with self.lock:
            self.tickets.add(ticket)

    def may_fold(self, ticket: Ticket, task: int) -> bool:
        """Whether the gradients of this backward are complete in its own graph.

        task: a number for each call of `backward()`. A parameter that two graphs of one call
        met, one after the other, is shared from then on.
        """
        with self.lock:
            if task != self.task:
                self.task, self.met = task, set()
                self.contested = self.in_doubt()
            own = ticket.ids
            self.shared |= self.met & own
            self.met |= own
            ticket.done = True
            return not self.contested & own

    def in_doubt(self) -> set[int]:
        """The parameters that more than one pending forward used."""
        once: set[int] = set()
        twice: set[int] = set()
        for ticket in self.tickets:
            if not ticket.done:
                twice |= once & ticket.ids
                once |= ticket.ids
        return twice


_claims: weakref.WeakKeyDictionary[FoldingOptimizer, Claims] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
