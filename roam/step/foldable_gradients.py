"""Decides which gradients a backward may fold, and into which optimizer's state.

A graph is planned once, but may run with other parameters each time (one block compiled for all
layers), twice before its backward (a siamese net), or share a parameter with a second graph (a
graph break). So every forward that runs leaves a ticket, which binds the plan's folds to the
parameters that the forward ran with; its backward finds the ticket on a saved tensor.

If it may not fold, the backward returns its gradients, autograd adds them up, and the optimizer's
hooks fold the sums, as they do for every gradient that no graph folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from roam.core.folds import Folds
from roam.optim.absorbing import NOTHING
from roam.optim.folding import FoldingOptimizer
from roam.optim.hooks import epoch
from roam.step.graph_optimizers import FoldsOfOptimizers, Needs, Used
from roam.step.pending_forwards import Claims
from roam.step.running_backward import NO_TASK, current_task, retained

GONE = "a parameter has changed its optimizer, or lost it, since the forward"

KNOWN_SETS = 64  # limit on a graph's remembered parameter sets; most models have fewer blocks


class Uses:
    """Remembers `Used.of` for each set of parameters that one graph has run with.

    One graph may run for all blocks of a model, or for one model after another. An entry is valid
    for one epoch (`optim.hooks.epoch`), and as long as the same parameters require gradients. Not
    every version of dynamo recompiles the graph if a `requires_grad` changes.

    needs: returns what a plan has to know of a fold; see `Used.of`.
    """

    def __init__(self, needs: Needs = FoldingOptimizer.needs) -> None:
        self._needs = needs
        self._parameters: tuple[int, ...] | None = None  # positions among a graph's inputs
        # an epoch, and the results of `Used.of` in this epoch
        self._known: tuple[object, dict[object, tuple[Used, ...]]] = None, {}

    def of(self, args: Sequence[Any], gradients: Mapping[int, Any]) -> tuple[Used, ...]:
        """Returns `Used.of(args, gradients)`. Every call must pass the same gradients.

        Raises:
            HyperparameterError: the user has given a group of an optimizer a wrong value.
        """
        if self._parameters is None:
            self._parameters = tuple(i for i, a in enumerate(args) if isinstance(a, Parameter))
        key = tuple([(id(args[i]), args[i].requires_grad) for i in self._parameters])
        for used in self._of_this_epoch().get(key, ()):
            if (optimizer := used.optimizer()) is not None:
                optimizer.look_at_groups()  # begins an epoch if a fold needs other bytes now
        found = self._of_this_epoch().get(key)
        if found is None:
            found = Used.of(args, gradients, self._needs)
            for used in found:
                if (optimizer := used.optimizer()) is not None:
                    Claims.of(optimizer).note(optimizer, [args[i] for i in used.ids])
            self._of_this_epoch()[key] = found  # of a new one if states went to a tier
        return found

    def _of_this_epoch(self) -> dict[object, tuple[Used, ...]]:
        """Returns the remembered results, by parameters: none if an epoch has begun since."""
        since, known = self._known
        if since is not epoch() or len(known) > KNOWN_SETS:
            known = {}
            self._known = epoch(), known
        return known


@dataclass(eq=False)
class Ticket:
    """Binds a forward that ran to the parameters of one optimizer.

    Attributes:
        folded: by index of a graph input, the parameter there whose gradient the backward folds.
        ids: ids of the parameters in `folded`.
        findable: whether the backward can find the ticket on a saved tensor.
        mini_batch: the optimizer's count of mini-batches when the forward ran.
        task: number of the backward inside which the forward ran (`current_task`), as the second
            forward of a checkpoint does; NO_TASK outside of a backward.
        done: whether the forward's own backward has run.
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
            Claims.of(optimizer).unmarked.update(used.all_ids)
            return Ticket(used, {}, frozenset(), findable, optimizer.mini_batches)
        claims = Claims.of(optimizer)
        free, ids = {i: args[i] for i in used.ids}, used.all_ids
        whole = used.twice | claims.shared
        # checks all parameters at once first, because parameters are rarely left out
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
        """Returns why the running backward may not fold gradients; None if they are complete."""
        optimizer = self.used.optimizer()
        if optimizer is None:
            return GONE
        objection = Claims.of(optimizer).objection(self, optimizer)
        if self.used.epoch is not epoch() and not all(map(optimizer.holds, self.folded.values())):
            return GONE
        return objection

    def absorb(
        self, gradients: Sequence[tuple[int, Tensor]], states: Mapping[str, Tensor] = NOTHING
    ) -> None:
        """Folds gradients, given as pairs (index of the graph's input, its gradient).

        states: those of the only parameter that the graph has loaded, by name.
        """
        pairs = [(self.folded[i], gradient) for i, gradient in gradients]
        self.optimizer.absorb_all(pairs, states)

    def absorb_rows(self, index: int, gradient: Tensor, start: int) -> None:
        """Folds the gradient of rows, from `start`, of the parameter that is an input."""
        self.optimizer.absorb_rows(self.folded[index], gradient, start)

    def stored(self, index: int, state: str) -> Tensor:
        """Returns the ticket of a state that lies in a tier, of the parameter that is an input."""
        return self.optimizer.ticket(self.folded[index], state)

    @property
    def optimizer(self) -> FoldingOptimizer:
        """The ticket's optimizer, which must still exist."""
        optimizer = self.used.optimizer()
        assert optimizer is not None, "the backward has asked for objections"
        return optimizer


@dataclass(eq=False)
class Tickets(FoldsOfOptimizers):
    """The tickets of one forward that ran, one for each optimizer, and the plan that it ran by."""

    tickets: tuple[Ticket, ...]
    planned: Any = None

    @staticmethod
    def of(found: Sequence[Used], args: Sequence[Any], *, findable: bool) -> Tickets | None:
        """Makes a forward's tickets, one for each of `found`. Returns None if `found` is empty."""
        if not found:
            return None
        return Tickets(tuple(Ticket.of(used, args, findable=findable) for used in found))

    @property
    def folds(self) -> Folds:
        """The folds that the forward's backward makes, if nothing objects to them then."""
        if len(self.tickets) == 1:
            return self.tickets[0].folds
        return tuple(sorted(fold for ticket in self.tickets for fold in ticket.folds))

    def leave_on(self, results: Sequence[Any], own_saved: int | None) -> None:
        """Puts the tickets on a saved tensor, if possible on one that the user does not get.

        The tickets live as long as the tensor's memory. So if the autograd graph is dropped, they
        are dropped, too.
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
        """Returns the tickets that lie on one of these tensors, and removes them from it.

        If they stayed, a gradient that is written to the tensor's memory would carry them. They do
        stay if the backward is retained, because another backward needs them.
        """
        for tensor in reversed(args):  # from the end: the user's tensors come first
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            mark = getattr(storage, "roam_tickets", None)
            if storage is not None and isinstance(mark, Tickets) and mark.tickets[0].findable:
                if not retained():
                    del storage.roam_tickets  # type: ignore[attr-defined]
                return mark
        return None

    def objection(self) -> str | None:
        """Returns why the running backward may not fold gradients; None if it may."""
        found = [ticket.objection() for ticket in self.tickets]  # asks all: each notes the backward
        return next((reason for reason in found if reason is not None), None)

    def absorb(self, gradients: Sequence[tuple[int, Tensor]]) -> None:
        """Folds gradients, given as pairs (index of the graph's input, its gradient)."""
        if len(self.tickets) == 1:
            self.tickets[0].absorb(gradients)
            return
        for ticket in self.tickets:
            own = [(i, gradient) for i, gradient in gradients if i in ticket.folded]
            if own:
                ticket.absorb(own)

    def absorb_with(self, index: int, gradient: Tensor, states: Mapping[str, Tensor]) -> None:
        """Folds the gradient of an input of the graph into states that the graph has loaded."""
        self._of(index).absorb([(index, gradient)], states)

    def absorb_rows(self, index: int, gradient: Tensor, start: int) -> None:
        """Folds the gradient of rows, from `start`, of an input of the graph."""
        self._of(index).absorb_rows(index, gradient, start)

    def by_optimizer(self) -> Iterator[tuple[FoldingOptimizer, Mapping[int, Parameter]]]:
        for ticket in self.tickets:
            if ticket.folded:  # a hook of the user's may leave an optimizer nothing to fold
                yield ticket.optimizer, ticket.folded

    def stored(self, index: int, state: str) -> Tensor:
        """Returns the ticket of a state that lies in a tier, of the parameter that is an input."""
        return self._of(index).stored(index, state)

    def _of(self, index: int) -> Ticket:
        return next(ticket for ticket in self.tickets if index in ticket.folded)
