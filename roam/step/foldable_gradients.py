"""Which gradients a backward may fold, and into whose state.

A graph is planned once, but may run with other parameters each time (one block compiled for all
layers), twice before its backward (a siamese net), or share a parameter with a second graph (a
graph break). So every forward that runs leaves a ticket, which binds the plan's folds to the
parameters it ran with; its backward finds the ticket on a saved tensor.

If it may not fold, the backward returns its gradients, autograd adds them up, and the optimizer's
hooks fold the sums: the way every gradient goes that is not folded in a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from roam.core.folds import Folds
from roam.optim.hooks import epoch
from roam.step.graph_optimizers import Used
from roam.step.pending_forwards import Claims
from roam.step.running_backward import NO_TASK, current_task, retained

GONE = "a parameter has changed its optimizer, or lost it, since the forward"

KNOWN_SETS = 64  # of parameters, to a graph: more than most models have blocks of one kind


class Uses:
    """Remembers `Used.of` for each set of parameters that one graph has run with.

    One graph may serve all blocks of a model, or model after model. What is remembered holds for
    one epoch, and as long as the same parameters are trained, which not every dynamo guards.
    """

    def __init__(self) -> None:
        self._parameters: tuple[int, ...] | None = None  # which of the inputs are
        self._known: tuple[object, dict[object, tuple[Used, ...]]] = None, {}  # in one epoch

    def of(self, args: Sequence[Any], gradients: Mapping[int, Any]) -> tuple[Used, ...]:
        """Returns `Used.of(args, gradients)`. The gradients are the same at every call."""
        now, (since, known) = epoch(), self._known
        if since is not now or len(known) > KNOWN_SETS:
            known = {}
            self._known = now, known
        if self._parameters is None:
            self._parameters = tuple(i for i, a in enumerate(args) if isinstance(a, Parameter))
        key = tuple([(id(args[i]), args[i].requires_grad) for i in self._parameters])
        found = known.get(key)
        if found is None:
            found = Used.of(args, gradients)
            for used in found:
                if (optimizer := used.optimizer()) is not None:
                    Claims.of(optimizer).note(optimizer, [args[i] for i in used.ids])
            known[key] = found
        return found


@dataclass(eq=False)
class Ticket:
    """One forward that ran, with one optimizer's parameters.

    folded: those whose gradients its backward folds, by input. ids: theirs. findable: the ticket
    lies where the backward looks. mini_batch: the optimizer's count. task: the backward that the
    forward ran in, as a checkpoint's second does. done: its own backward has run.
    """

    used: Used
    folded: dict[int, Parameter]
    ids: frozenset[int]
    findable: bool = True
    mini_batch: int = -1
    task: int = field(default_factory=current_task)
    done: bool = False

    @staticmethod
    def of(used: Used, args: Sequence[Any], *, findable: bool) -> Ticket:
        optimizer = used.optimizer()
        if optimizer is None:
            return Ticket(used, {}, frozenset(), findable)
        if current_task() == NO_TASK:
            optimizer.absorb_held()
        if not findable:
            return Ticket(used, {}, frozenset(), findable, optimizer.mini_batches)
        claims = Claims.of(optimizer)
        free, ids = {i: args[i] for i in used.ids}, used.all_ids
        whole = used.twice | claims.shared
        # the same every time, but for what is rare: asked for all of them at once
        if not whole.isdisjoint(ids) or claims.any_left_whole(free.values()):
            free = {
                i: p for i, p in free.items() if id(p) not in whole and not claims.left_whole(p)
            }
            ids = frozenset(map(id, free.values()))
        return Ticket(used, free, ids, findable, optimizer.mini_batches)

    @property
    def folds(self) -> Folds:
        if len(self.folded) == len(self.used.folds):
            return self.used.folds
        return tuple(fold for fold in self.used.folds if fold[0] in self.folded)

    def objection(self) -> str | None:
        """Why the backward that runs now may not fold; None where its gradients are complete."""
        optimizer = self.used.optimizer()
        if optimizer is None:
            return GONE
        objection = Claims.of(optimizer).objection(self, optimizer)
        if self.used.epoch is not epoch() and not all(map(optimizer.holds, self.folded.values())):
            return GONE
        return objection

    def absorb(self, gradients: Sequence[tuple[int, Tensor]]) -> None:
        """gradients: with the input that each is the gradient of."""
        optimizer = self.used.optimizer()
        assert optimizer is not None, "the backward has asked for objections"
        optimizer.absorb_all([(self.folded[i], gradient) for i, gradient in gradients])


@dataclass(eq=False)
class Tickets:
    """One forward that ran: its tickets, one for each optimizer, and its plan (the kernels')."""

    tickets: tuple[Ticket, ...]
    planned: Any = None

    @staticmethod
    def of(found: Sequence[Used], args: Sequence[Any], *, findable: bool) -> Tickets | None:
        """For a forward that uses optimizers' parameters, and has a backward."""
        if not found:
            return None
        return Tickets(tuple(Ticket.of(used, args, findable=findable) for used in found))

    @property
    def folds(self) -> Folds:
        """What its backward folds, if nothing is objected."""
        if len(self.tickets) == 1:
            return self.tickets[0].folds
        return tuple(sorted(fold for ticket in self.tickets for fold in ticket.folds))

    def leave_on(self, results: Sequence[Any], own_saved: int | None) -> None:
        """Marks a result that the backward will find: one that is its own, if there is one.

        The tickets live as long as the tensor's memory: a dropped graph drops them.
        """
        if own_saved is None:
            tensor = next(r for r in results if isinstance(r, Tensor))
        else:
            tensor = results[own_saved]
        tensor.untyped_storage().roam_tickets = self  # type: ignore[attr-defined]
        for ticket in self.tickets:
            if (optimizer := ticket.used.optimizer()) is not None:
                Claims.of(optimizer).issue(ticket)

    @staticmethod
    def found_on(args: Sequence[Any]) -> Tickets | None:
        """Takes them off the tensor: a gradient that is written there must not carry them."""
        for tensor in reversed(args):  # the user's come first
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            mark = getattr(storage, "roam_tickets", None)
            if storage is not None and isinstance(mark, Tickets) and mark.tickets[0].findable:
                if not retained():
                    del storage.roam_tickets  # type: ignore[attr-defined]
                return mark
        return None

    def objection(self) -> str | None:
        """Why the backward that runs now may not fold; None where it may."""
        found = [ticket.objection() for ticket in self.tickets]  # each notes its backward
        return next((reason for reason in found if reason is not None), None)

    def absorb(self, gradients: Sequence[tuple[int, Tensor]]) -> None:
        """gradients: with the input that each is the gradient of."""
        if len(self.tickets) == 1:
            self.tickets[0].absorb(gradients)
            return
        for ticket in self.tickets:
            own = [(i, gradient) for i, gradient in gradients if i in ticket.folded]
            if own:
                ticket.absorb(own)
