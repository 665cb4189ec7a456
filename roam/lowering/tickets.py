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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import Parameter

from roam.core.errors import IncompleteGradientError
from roam.inspect.report import ask_for_unfolded
from roam.lowering.aten import Lowered
from roam.optim.folding import FoldingOptimizer
from roam.passes.geometry import storage_key, tensors, value
from roam.passes.gradient_release import Release

AccumulateGrad: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]

SHARED = "a parameter is used by several graphs, or several calls, whose gradients must be summed"
ELSEWHERE = "a gradient is not the optimizer's: autograd.grad wants it, or .grad holds one already"


@dataclass(frozen=True)
class Used:
    """The optimizer's parameters among the inputs of a graph. at: by input. ids: theirs. given: all
    parameters among the inputs, which are not kept for that. changes: how often the optimizer had
    changed which it holds.
    """

    at: dict[int, Parameter] = field(default_factory=dict)
    ids: frozenset[int] = frozenset()
    given: tuple[tuple[int, weakref.ref[Parameter]], ...] = ()
    changes: int = -1

    @classmethod
    def of(cls, optimizer: FoldingOptimizer, args: Sequence[Any]) -> Used:
        found = {i: a for i, a in enumerate(args) if isinstance(a, Parameter)}
        at = {i: p for i, p in found.items() if p.requires_grad and optimizer.holds(p)}
        given = tuple((i, weakref.ref(p)) for i, p in found.items())
        return cls(at, frozenset(map(id, at.values())), given, optimizer.changes)

    def renewed(self, optimizer: FoldingOptimizer, args: Sequence[Any]) -> Used:
        """The same of another run of the graph, which mostly is of the same parameters.

        Whether one of them is trained dynamo has guarded.
        """
        if self.changes == optimizer.changes and all(args[i] is p() for i, p in self.given):
            return self
        return Used.of(optimizer, args)


@dataclass(eq=False)
class Ticket:
    """One forward that ran: its plan, and the optimizer's parameters that it used.

    used: their ids. folded: those whose gradients its backward folds, by input. folds: their ids.
    findable: the ticket lies where the backward looks. done: the backward has run. begun: it has
    folded some.
    """

    optimizer: FoldingOptimizer
    claims: Claims
    used: frozenset[int]
    folded: dict[int, Parameter]
    folds: frozenset[int]
    findable: bool = True
    lowered: Lowered | None = None
    done: bool = False
    begun: bool = False

    def absorb(self, index: int, gradient: Tensor) -> None:
        self.absorb_all([(index, gradient)])

    def absorb_all(self, gradients: Sequence[tuple[int, Tensor]]) -> None:
        """gradients: with the input that each is the gradient of."""
        if not self.begun:
            self.begun = True
            self.claims.expect_no_more(self)
        self.optimizer.absorb_all([(self.folded[i], gradient) for i, gradient in gradients])

    def expected(self) -> bool:
        """Whether the backward that runs now would put every folded gradient into an empty `.grad`.

        `autograd.grad` and `backward(inputs=...)` want it elsewhere, or not at all, and must
        train nothing.
        """
        ends = _ends(torch._C._current_autograd_node())
        return all(p.grad is None and _is_run(ends.get(id(p))) for p in self.folded.values())

    @staticmethod
    def of(optimizer: FoldingOptimizer, used: Used, *, findable: bool) -> Ticket | None:
        """For a forward that uses the optimizer's parameters, and has a backward."""
        if not used.at:
            return None
        claims = Claims.of(optimizer)
        able = used.at if findable else {}
        free = {i: p for i, p in able.items() if id(p) not in claims.shared and not hooked(p)}
        ids = used.ids if len(free) == len(used.at) else frozenset(map(id, free.values()))
        return Ticket(optimizer, claims, used.ids, free, ids, findable)

    def leave_on(self, results: Sequence[Any], own_saved: int | None) -> None:
        """Marks a result that the backward will find: one that is its own, if there is one.

        The ticket lives as long as the tensor's memory: a dropped graph drops it.
        """
        marked = next(r for r in results if isinstance(r, Tensor))
        tensor: Tensor = marked if own_saved is None else results[own_saved]
        tensor.untyped_storage().roam_ticket = self  # type: ignore[attr-defined]
        self.claims.issue(self)

    @staticmethod
    def found_on(args: Sequence[Any]) -> Ticket | None:
        tensors = (a for a in reversed(args) if isinstance(a, Tensor))  # the user's come first
        marks = (getattr(t.untyped_storage(), "roam_ticket", None) for t in tensors)
        return next((m for m in marks if isinstance(m, Ticket) and m.findable), None)


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
        self._used: set[int] = set()  # what a graph has used
        self._ever_folded: set[int] = set()
        self._folded: set[int] = set()
        self._contested: set[int] = set()
        self._met: set[int] = set()

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
            new = ticket.used - self._used
            self._used |= new
        for parameter in ticket.folded.values() if new else ():
            ticket.optimizer.state_of(parameter)  # made now, so that no backward makes it

    def unfolded(self, optimizer: FoldingOptimizer) -> Iterator[tuple[str, str]]:
        """The optimizer's parameters whose gradients no graph folds, by name, and why."""
        for name, p in optimizer.named():
            if not p.requires_grad:
                yield name, "it is frozen"
            elif id(p) in self.shared:
                yield name, "several graphs or calls use it, and their gradients are summed first"
            elif hooked(p):
                yield name, "a hook (Tensor.register_hook) gets its gradient first"
            elif id(p) not in self._used:
                yield name, "no compiled graph has used it"
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
                self._met, self._folded = set(), set()
                self._contested = self._in_doubt()
            self.shared |= self._met & ticket.used
            self._met |= ticket.used
            ticket.done = True
            if not ticket.expected():
                return ELSEWHERE
            return None if self._contested.isdisjoint(ticket.folds) else SHARED

    def expect_no_more(self, ticket: Ticket) -> None:
        """Notes that a graph folds its gradients: in this backward no more of them may come.

        They would once it has run, were a parameter used outside of the compiled region as well.
        """
        with self._lock:
            self._folded |= ticket.folds
            self._ever_folded |= ticket.folds

    def refuse_more(self, parameter: Tensor) -> None:
        if self._task == torch._C._current_graph_task_id() and id(parameter) in self._folded:
            self.shared.add(id(parameter))
            raise IncompleteGradientError(
                "a parameter is used in the compiled region and outside of it: what the region "
                "folded was only a part of its gradient. Compile the whole of the model or loss "
                "function (what is wrong now is this step; later ones sum the gradient first)"
            )

    def _in_doubt(self) -> set[int]:
        """The parameters that more than one pending forward used."""
        once: set[int] = set()
        twice: set[int] = set()
        pending = [t for t in self._tickets if not t.done]
        for ticket in pending:
            twice |= once & ticket.used
            once |= ticket.used
        for ticket in pending:
            if not ticket.findable:
                self.shared |= twice & ticket.used
        return twice


def hooked(parameter: Tensor) -> bool:
    """Whether a hook of the user's may change the gradient on its way to the parameter."""
    return bool(parameter._backward_hooks)


def own_saved(forward: fx.Graph, outputs: int | None) -> int | None:
    """The last output that is a saved tensor and neither is, nor shares with, one of the user's."""
    returned = list(forward.output_node().args[0])  # type: ignore[arg-type]
    users = [*forward.find_nodes(op="placeholder"), *returned[:outputs]]
    known = {storage_key(t) for n in users if isinstance(n, fx.Node) for t in tensors(n)}
    for i, node in reversed([*enumerate(returned)]):
        found = value(node) if isinstance(node, fx.Node) else None
        if isinstance(found, torch.Tensor) and storage_key(found) not in known:
            return i
    return None


def releases(
    optimizer: FoldingOptimizer,
    folded: dict[int, Parameter],
    given: Sequence[Any],
    backward: fx.GraphModule,
    gradient_of: Callable[[int], int] = lambda i: i,
) -> tuple[Release, ...]:
    """What to tell the pass about each parameter whose gradient is folded.

    given: the fake values of the forward's inputs. gradient_of: which output is an input's
    gradient.
    """
    returned: Any = backward.graph.output_node().args[0]
    return tuple(
        Release(
            index=i,
            output=gradient_of(i),
            parameter=given[i],
            state=tuple((spec.name, spec.bytes) for spec in optimizer.spec(p)),
            scratch=optimizer.scratch(p, value(returned[gradient_of(i)])),
            writes_parameter=optimizer.writes_parameters,
        )
        for i, p in folded.items()
        if isinstance(returned[gradient_of(i)], fx.Node)
    )


def _ends(node: torch.autograd.graph.Node | None) -> dict[int, Any]:
    """What the backward of a graph hands its gradients to, by the leaf (its id)."""
    followers = () if node is None else node.next_functions
    return {id(n.variable): n for n, _ in followers if isinstance(n, AccumulateGrad)}


def _is_run(accumulates: Any) -> bool:
    try:
        return bool(accumulates and torch._C._will_engine_execute_node(accumulates))
    except RuntimeError:  # the engine's answer where `autograd.grad` returns this gradient
        return False


def _unfolded() -> dict[str, str]:
    return {n: why for optimizer, c in list(_claims.items()) for n, why in c.unfolded(optimizer)}


NO_TASK = -1
_claims: weakref.WeakKeyDictionary[FoldingOptimizer, Claims] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
ask_for_unfolded(_unfolded)
