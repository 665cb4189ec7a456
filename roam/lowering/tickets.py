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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn import Parameter

from roam.core.errors import IncompleteGradientError
from roam.inspect.report import ask_for_unfolded
from roam.lowering.aten import Lowered
from roam.lowering.used import Folds, Used
from roam.optim.folding import FoldingOptimizer
from roam.optim.hooks import epoch
from roam.optim.in_options import named

SHARED = "a parameter is used by several graphs, or several calls, whose gradients must be summed"
ELSEWHERE = "a gradient is not the optimizer's: autograd.grad wants it, or .grad holds one already"
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
    lies where the backward looks. done: the backward has run. begun: it has folded some.
    """

    used: Used
    folded: dict[int, Parameter]
    ids: frozenset[int]
    findable: bool = True
    done: bool = False
    begun: bool = False

    @staticmethod
    def of(used: Used, args: Sequence[Any], *, findable: bool) -> Ticket:
        optimizer = used.optimizer()
        if optimizer is None or not findable:
            return Ticket(used, {}, frozenset(), findable)
        shared = Claims.of(optimizer).shared
        free, ids = {i: args[i] for i in used.ids}, used.all_ids
        # the same every time, but for what is rare: asked for all of them at once
        if not shared.isdisjoint(ids) or any(map(hooked, free.values())):
            free = {i: p for i, p in free.items() if id(p) not in shared and not hooked(p)}
            ids = frozenset(map(id, free.values()))
        return Ticket(used, free, ids, findable)

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
        objection = Claims.of(optimizer).objection(self)
        if self.used.epoch is not epoch() and not all(map(optimizer.holds, self.folded.values())):
            return GONE
        return objection

    def absorb(self, gradients: Sequence[tuple[int, Tensor]]) -> None:
        """gradients: with the input that each is the gradient of."""
        optimizer = self.used.optimizer()
        assert optimizer is not None, "the backward has asked for objections"
        if not self.begun:
            self.begun = True
            Claims.of(optimizer).expect_no_more(self)
        optimizer.absorb_all([(self.folded[i], gradient) for i, gradient in gradients])


@dataclass(eq=False)
class Tickets:
    """One forward that ran: its tickets, one for each optimizer, and its plan."""

    tickets: tuple[Ticket, ...]
    lowered: Lowered | None = None

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
                if not keeps_graph():
                    del storage.roam_tickets  # type: ignore[attr-defined]
                return mark
        return None

    def objection(self) -> str | None:
        """Why the backward that runs now may not fold; None where it may."""
        found = [ticket.objection() for ticket in self.tickets]  # each notes its backward
        return next((reason for reason in found if reason is not None), None)

    def absorb(self, index: int, gradient: Tensor) -> None:
        self.absorb_all([(index, gradient)])

    def absorb_all(self, gradients: Sequence[tuple[int, Tensor]]) -> None:
        """gradients: with the input that each is the gradient of."""
        if len(self.tickets) == 1:
            self.tickets[0].absorb(gradients)
            return
        for ticket in self.tickets:
            own = [(i, gradient) for i, gradient in gradients if i in ticket.folded]
            if own:
                ticket.absorb(own)


class Claims:
    """The pending forwards of one optimizer's parameters.

    shared: parameters (ids; the optimizer keeps them) that two forwards of one step used. No
    graph folds their gradients again.
    """

    def __init__(self) -> None:
        self.shared: set[int] = set()
        self._tickets: weakref.WeakSet[Ticket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._task = NO_TASK
        self._ends: dict[int, Node] = {}  # of the parameters (ids) that a graph has used
        self._ever_folded: set[int] = set()
        self._folded: set[int] = set()
        self._contested: set[int] = set()
        self._met: frozenset[int] = frozenset()

    @staticmethod
    def of(optimizer: FoldingOptimizer) -> Claims:
        found = _claims.get(optimizer)
        if found is not None:  # in every forward: no lock, no Claims made in vain
            return found
        with _lock:
            claims = _claims.setdefault(optimizer, Claims())
            optimizer.guard = claims.refuse_more
            return claims

    def issue(self, ticket: Ticket) -> None:
        with self._lock:
            self._tickets.add(ticket)

    def note(self, optimizer: FoldingOptimizer, parameters: Collection[Parameter]) -> None:
        """A graph uses these parameters of the optimizer's, and has gradients of them."""
        with self._lock:
            new = [p for p in parameters if id(p) not in self._ends]
            self._ends.update(_ends(new))
            for parameter in new:
                optimizer.state_of(parameter)  # made now, so that no backward makes it

    def unfolded(self, optimizer: FoldingOptimizer) -> Iterator[tuple[str, str]]:
        """The optimizer's parameters whose gradients no graph folds, by name, and why."""
        for name, p in optimizer.named():
            if not p.requires_grad:
                yield name, "it is frozen"
            elif id(p) in self.shared:
                yield name, "several graphs or calls use it, and their gradients are summed first"
            elif hooked(p):
                yield name, "a hook (Tensor.register_hook) gets its gradient first"
            elif id(p) not in self._ends:
                yield name, "no compiled graph has a gradient of it"
            elif id(p) not in self._ever_folded:
                yield name, "no backward has run by its plan yet"

    def objection(self, ticket: Ticket) -> str | None:
        """Why the backward that runs now may not fold; None where its gradients are complete.

        A parameter that two graphs of one call of `backward()` met, one after the other, is
        shared from then on; so is one that a graph used whose backward cannot be told.
        """
        with self._lock:
            if self._task != torch._C._current_graph_task_id():
                self._task = torch._C._current_graph_task_id()
                self._met, self._folded = frozenset(), set()
                self._contested = self._in_doubt()
            self.shared |= self._met & ticket.used.all_ids
            self._met = self._met | ticket.used.all_ids if self._met else ticket.used.all_ids
            ticket.done = True
            if not self._expected(ticket.folded.values()):
                return ELSEWHERE
            return None if self._contested.isdisjoint(ticket.ids) else SHARED

    def expect_no_more(self, ticket: Ticket) -> None:
        """Notes that a graph folds its gradients: in this backward no more of them may come.

        They would once it has run, were a parameter used outside of the compiled region as well.
        """
        with self._lock:
            self._folded |= ticket.ids
            self._ever_folded |= ticket.ids

    def refuse_more(self, parameter: Tensor) -> None:
        if self._task == torch._C._current_graph_task_id() and id(parameter) in self._folded:
            self.shared.add(id(parameter))
            raise IncompleteGradientError(
                "a parameter is used in the compiled region and outside of it: what the region "
                "folded was only a part of its gradient. Compile the whole of the model or loss "
                "function (what is wrong now is this step; later ones sum the gradient first)"
            )

    def _expected(self, folded: Collection[Parameter]) -> bool:
        """Whether the backward that runs now would put each gradient into a `.grad` that is empty.

        `autograd.grad` and `backward(inputs=...)` want it elsewhere, or not at all, and must
        train nothing.
        """
        if _all_expected(folded, self._ends):
            return True
        self._ends.update(_ends(folded))  # others, where data were given another dtype or device
        return _all_expected(folded, self._ends)

    def _in_doubt(self) -> set[int]:
        """The parameters that more than one pending forward used."""
        once: set[int] = set()
        twice: set[int] = set()
        pending = [t for t in self._tickets if not t.done]
        for ticket in pending if len(pending) > 1 else ():
            twice |= once & ticket.used.all_ids
            once |= ticket.used.all_ids
        for ticket in pending:
            if not ticket.findable:
                self.shared |= twice & ticket.used.all_ids
        return twice


def keeps_graph() -> bool:
    """Whether another backward of the graph that runs now may follow."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def hooked(parameter: Tensor) -> bool:
    """Whether a hook of the user's may change the gradient on its way to the parameter."""
    return bool(parameter._backward_hooks)


def _ends(parameters: Iterable[Parameter]) -> dict[int, Node]:
    """What puts a gradient into `.grad`, by id. Kept, it is what every graph to come ends in.

    One that was frozen since its forward has no new one.
    """
    return {id(p): get_gradient_edge(p).node for p in parameters if p.requires_grad}


def _all_expected(parameters: Iterable[Parameter], ends: Mapping[int, Node]) -> bool:
    is_run = torch._C._will_engine_execute_node
    try:
        return all(p.grad is None and is_run(ends[id(p)]) for p in parameters)
    except RuntimeError:  # the engine's answer where `autograd.grad` returns this gradient
        return False


def _unfolded() -> dict[str, str]:
    optimizers = {*named, *_claims}  # those in options, and those that graphs have found
    return {n: why for each in optimizers for n, why in Claims.of(each).unfolded(each)}


NO_TASK = -1
_claims: weakref.WeakKeyDictionary[FoldingOptimizer, Claims] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
ask_for_unfolded(_unfolded)
