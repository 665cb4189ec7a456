"""Tracks the pending forwards of an optimizer's parameters, and which gradients are complete.

A gradient in a compiled graph is complete if the running backward has no other edge into the
parameter, and no pending forward still needs the parameter's present value. When the optimizer's
hook runs, autograd has summed the gradients of all edges. The sum is complete unless another run of
a checkpoint or another backward will add to it: then it stays in `.grad`.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from roam.inspect.report import ask_for_unfolded
from roam.optim.folding import FoldingOptimizer
from roam.optim.hooks import owner_of
from roam.optim.in_options import named
from roam.step.parameter_hooks import Leaf, hooked
from roam.step.running_backward import (
    NO_TASK,
    Edges,
    current_task,
    edges,
    in_checkpoint,
    retained,
)

if TYPE_CHECKING:
    from roam.step.foldable_gradients import Ticket

SHARED = "a parameter is used several times, or outside of the graph: gradients must be summed"
PENDING = "a forward that used the same parameters has not had its backward yet"
HOOKED = "a hook, registered since the forward, gets a gradient first"
UNSEEN = "the backward was not called from Python: who else uses the parameters cannot be told"
UNMARKED = "its graph saves only its inputs and outputs, which are yours"
NOT_YET = "no backward has run by its plan yet"
ELSEWHERE = "a gradient is not the optimizer's: autograd.grad wants it, or .grad holds one already"


class Claims:
    """The pending forwards of one optimizer's parameters.

    Attributes:
        shared: ids of parameters whose gradient was once a sum of several gradients. No graph folds
            the gradients of these parameters again. The optimizer keeps the parameters alive.
        unmarked: ids of parameters of graphs that save only tensors which the user has too. A
            ticket lies on a tensor that is the graph's own, so these graphs' backwards find none.
    """

    def __init__(self, optimizer: FoldingOptimizer) -> None:
        self.shared: set[int] = set()
        self.unmarked: set[int] = set()
        self._optimizer = weakref.ref(optimizer)
        self._tickets: weakref.WeakSet[Ticket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._task = NO_TASK
        self._edges: Edges | None = None  # edges of the backward `_task`
        self._noted: set[int] = set()  # ids of parameters with a gradient in a graph
        self._leaves: dict[int, Leaf] = {}  # AccumulateGrad nodes, by the parameter's id
        self._ever_folded: set[int] = set()
        self._mini_batch = 0
        self._reruns: Counter[int] = Counter()  # parameter's id -> checkpoint reruns to come
        self._open: set[int] = set()  # ids of parameters that may get more gradients

    @staticmethod
    def of(optimizer: FoldingOptimizer) -> Claims:
        found = _claims.get(optimizer)
        if found is not None:  # takes no lock, because every forward runs this
            return found
        with _lock:
            claims = _claims.setdefault(optimizer, Claims(optimizer))
            optimizer.more_to_come = claims.more_to_come
            return claims

    def issue(self, ticket: Ticket) -> None:
        with self._lock:
            self._tickets.add(ticket)

    def note(self, optimizer: FoldingOptimizer, parameters: Collection[Parameter]) -> None:
        """Records that a graph has gradients of these parameters of the optimizer."""
        optimizer.hook_up()
        held = {id(p) for _, p in optimizer.named()}
        with self._lock:
            for known in (self._noted, self.shared, self.unmarked, self._ever_folded):
                known &= held
            self._leaves = {i: leaf for i, leaf in self._leaves.items() if i in held}
            for parameter in (p for p in parameters if id(p) not in self._noted):
                self._noted.add(id(parameter))
                optimizer.state_of(parameter)  # allocates the state before the backward

    def note_folded(self, optimizer: FoldingOptimizer, parameters: Collection[Parameter]) -> None:
        """Records that a step captured as one graph folds the gradients of these parameters."""
        new = [p for p in parameters if id(p) not in self._ever_folded]
        if new:
            self.note(optimizer, new)
            self._ever_folded.update(map(id, new))

    def note_first_pass(self, optimizer: FoldingOptimizer, ids: Collection[int]) -> None:
        """Records that a checkpoint runs a graph without gradients, and will rerun it with them."""
        with self._lock:
            self._renew(optimizer)
            self._reruns.update(ids)

    def any_left_whole(self, parameters: Collection[Parameter]) -> bool:
        """Returns whether a parameter's gradient may not be folded by a graph (`left_whole`).

        Must be quick, because every forward and every backward calls it.
        """
        optimizer, leaves = self._optimizer(), self._leaves
        if optimizer is not None and optimizer.leaves_unfolded:
            return any(map(self.left_whole, parameters))
        return any(
            (
                (leaf := leaves.get(id(p))) is None
                or leaf.prehooks
                or leaf.hooks
                or p._backward_hooks
                or len(p._post_accumulate_grad_hooks or ()) > 1  # one is the optimizer's hook
            )
            and self.left_whole(p)
            for p in parameters
        )

    def left_whole(self, parameter: Tensor) -> bool:
        """Returns whether no graph may fold the parameter's gradient.

        That is so if a user's hook gets the gradient first, or if the group says "unfolded".
        """
        optimizer = self._optimizer()
        unfolded = optimizer is not None and optimizer.unfolded(parameter)
        return unfolded or self.hooked(parameter)

    def hooked(self, parameter: Tensor) -> bool:
        """Returns whether a user's hook gets the gradient before the optimizer folds it."""
        leaf = self._leaf(parameter)
        return hooked(parameter) or (leaf is not None and bool(leaf.prehooks or leaf.hooks))

    def unfolded(self, optimizer: FoldingOptimizer) -> Iterator[tuple[str, str]]:
        """Yields (parameter's name, reason) for each parameter whose gradient no graph folds."""
        for name, p in optimizer.named():
            if not p.requires_grad:
                yield name, "it is frozen"
            elif optimizer.unfolded(p):
                yield name, 'its group says "unfolded"'
            elif id(p) in self.shared:
                yield name, "it is used several times, and the gradients are summed first"
            elif self.hooked(p):
                yield name, "a hook of yours gets its gradient first"
            elif id(p) not in self._noted:
                yield name, "no compiled graph has a gradient of it"
            elif id(p) not in self._ever_folded:
                yield name, UNMARKED if id(p) in self.unmarked else NOT_YET

    def objection(self, ticket: Ticket, optimizer: FoldingOptimizer) -> str | None:
        """Returns why the running backward may not fold gradients; None if they are complete.

        Marks a parameter as shared if more than one edge of the running backward ends in it. Raises
        SecondBackwardError, before anything is folded.
        """
        used = ticket.used
        with self._lock:
            if self._task != current_task():
                self._task, self._edges = current_task(), edges()
            self._renew(optimizer)
            ticket.done = not retained()
            if ticket.task not in (NO_TASK, self._task):
                self._count_rerun(used.all_ids)
            known = self._edges
            if known is not None:
                self.shared |= (known.summed | known.around) & used.all_ids
            others = [t for t in self._pending(optimizer) if t is not ticket]
            for other in others:
                if not other.findable:
                    self.shared |= other.used.all_ids & used.all_ids
            if not self._expected(ticket.folded.values()):
                return ELSEWHERE
            if known is None:
                return UNSEEN
            if not self.shared.isdisjoint(ticket.ids) or any(map(self._is_rerun, ticket.ids)):
                return SHARED
            if optimizer.writes_parameters and any(
                not t.used.read.isdisjoint(ticket.ids) for t in others
            ):
                return PENDING
            if self.any_left_whole(ticket.folded.values()):
                return HOOKED
            optimizer.check_room(ticket.folded.values())
            if ticket.done:
                self._ever_folded |= ticket.ids
            return None

    def more_to_come(self, parameter: Tensor) -> bool:
        """Returns whether the gradient that a hook finds in `.grad` is not complete yet.

        Another run of a checkpoint may add to it, or another backward if the running one retains
        its graph. In mode "release" the gradient also waits for pending forwards, which need the
        parameter's present value.
        """
        optimizer, i = self._optimizer(), id(parameter)
        if optimizer is None:
            return False
        with self._lock:
            self._renew(optimizer)
            known = self._edges if self._task == current_task() else None
            if self._is_rerun(i) or (known is not None and i in known.around):
                return True
            if not optimizer.writes_parameters:
                return False
            pending = self._pending(optimizer)
            reading = [t for t in pending if i in t.used.read]
            # if a ticket is not findable, it is unknown whether the backward of its forward has run
            if retained() or any(t.findable for t in reading) or len(reading) > 1:
                return True
            return i not in self._noted and _overlap(pending)

    def _pending(self, optimizer: FoldingOptimizer) -> list[Ticket]:
        now = optimizer.mini_batches  # not earlier ones: their forwards used other weights
        return [t for t in self._tickets if not t.done and t.mini_batch == now]

    def _renew(self, optimizer: FoldingOptimizer) -> None:
        if self._mini_batch != optimizer.mini_batches:
            self._mini_batch = optimizer.mini_batches
            self._reruns.clear()
            self._open.clear()

    def _count_rerun(self, ids: Collection[int]) -> None:
        """Records that a checkpoint's function has run again, within the backward."""
        for i in ids:
            if self._reruns[i] > 0:
                self._reruns[i] -= 1
            else:  # no first run was recorded: not torch's checkpoint
                self._open.add(i)

    def _is_rerun(self, i: int) -> bool:
        return self._reruns.get(i, 0) > 0 or i in self._open

    def _leaf(self, parameter: Tensor) -> Leaf | None:
        """Returns the parameter's AccumulateGrad node; None if it is frozen and has none yet."""
        i = id(parameter)
        leaf = self._leaves.get(i)
        if leaf is None:
            if not parameter.requires_grad:
                return None
            leaf = Leaf.of(parameter)
        if leaf.prehooks or leaf.hooks:
            self._leaves.pop(i, None)  # so that the node and its hooks can be freed
        else:
            self._leaves[i] = leaf
        return leaf

    def _expected(self, folded: Collection[Parameter]) -> bool:
        """Returns whether the running backward would put each gradient into an empty `.grad`.

        `autograd.grad` and `backward(inputs=...)` may not do that, and then must train nothing.
        """
        if self._all_expected(folded):
            return True
        # a parameter gets a new AccumulateGrad node when its .data gets another dtype or device
        self._leaves.update({id(p): Leaf.of(p) for p in folded if p.requires_grad})
        return self._all_expected(folded)

    def _all_expected(self, folded: Collection[Parameter]) -> bool:
        leaves, is_run = self._leaves, torch._C._will_engine_execute_node
        try:
            return all(
                p.grad is None and (leaf := leaves.get(id(p))) is not None and is_run(leaf.node)
                for p in folded
            )
        except RuntimeError:  # the engine's answer if `autograd.grad` returns this gradient
            return False


def _overlap(pending: Sequence[Ticket]) -> bool:
    """Returns whether two pending forwards, maybe with two backwards, used a common parameter."""
    seen: set[int] = set()
    for ticket in pending:
        if not seen.isdisjoint(ticket.used.all_ids):
            return True
        seen |= ticket.used.all_ids
    return False


def note_first_pass(args: Sequence[Any]) -> None:
    """Records that a graph runs without gradients, if a checkpoint will rerun it later."""
    if in_checkpoint():
        found: dict[FoldingOptimizer, set[int]] = {}
        for a in args:
            if isinstance(a, Parameter) and isinstance(owner := owner_of(a), FoldingOptimizer):
                found.setdefault(owner, set()).add(id(a))
        for optimizer, ids in found.items():
            Claims.of(optimizer).note_first_pass(optimizer, ids)


def left_whole(parameter: Tensor) -> bool:
    """Returns whether a hook or the parameter's group forbids graphs to fold its gradient."""
    owner = owner_of(parameter)
    return isinstance(owner, FoldingOptimizer) and Claims.of(owner).left_whole(parameter)


def _unfolded() -> dict[str, str]:
    optimizers = {*named, *_claims}  # optimizers in options, and those found by graphs
    return {n: why for each in optimizers for n, why in Claims.of(each).unfolded(each)}


_claims: weakref.WeakKeyDictionary[FoldingOptimizer, Claims] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
ask_for_unfolded(_unfolded)
