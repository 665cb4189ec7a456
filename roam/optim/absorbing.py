"""Defines an optimizer that folds each complete gradient by a rule, and counts the folds.

Gradients come from three sources:

    eager      AccumulateGrad ──► hook ────────┬──► absorb(param, grad) ────┐
    compiled   an op of the backward graph ────┘    of one micro-batch      ├──► rule
    by hand    param.grad, found in step() ────────► sum of the mini-batch ─┘

The hook of a parameter is also called after a compiled backward, and finds no gradient if the graph
has folded it. If the gradient is not complete (`waits`), the hook leaves it in `.grad`:
`absorb_held`, a later backward or step() folds it. A graph may also carry out the rule by kernels
of its own (`formulas`): then the caller of the graph counts the folds (`count_folds`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from roam.core.errors import SecondBackwardError
from roam.optim import refusals
from roam.optim.clipping import watch
from roam.optim.early_sends import EarlySends
from roam.optim.fold import State
from roam.optim.formula import BoundFormula
from roam.optim.notices import Notices
from roam.optim.ranks import Ranks
from roam.optim.row_blocks import RowBlocks
from roam.optim.ruled import RuledOptimizer
from roam.optim.stored_states import is_stored
from roam.optim.updates import Release, bound, count, fold, of_rows, release

NOTHING: State = {}


class AbsorbingOptimizer(RuledOptimizer):
    """The part of `FoldingOptimizer` that absorbs gradients. `FoldingOptimizer` adds step()."""

    def __init__(self, params: ParamsT, *args: Any, **values: Any) -> None:
        # returns whether a parameter's gradient has to stay in .grad; None if no gradient has to
        self.more_to_come: Callable[[Tensor], bool] | None = None
        self.mini_batches = 0  # number of mini-batches that have ended or were dropped
        self._folded: dict[Tensor, int] = {}  # parameter -> count of folds in this mini-batch
        self._blocks = RowBlocks()
        self._incomplete: set[Tensor] = set()  # parameters whose gradient has to stay in .grad
        self._notices = Notices(type(self).__name__)
        # factor by which max_norm clips the gradients of this mini-batch; None until first needed
        self._factor: Tensor | None = None
        self._deferred = False  # whether step() is postponed (`FoldingOptimizer.deferred`)
        # one True for each postponed step(); a list, because a traced step() can set no attribute
        self._due: list[bool] = []
        super().__init__(params, *args, **values)
        self._early = EarlySends(self.ranks) if isinstance(self.ranks, Ranks) else None
        watch()

    def absorb(self, param: Tensor, grad: Tensor) -> None:
        """Folds a parameter's complete gradient of one micro-batch. The caller may then free it.

        Adds the gradient to `.grad` instead if the user has removed the parameter from the groups.

        Raises:
            SecondBackwardError: the parameter has had all its gradients of this mini-batch.
            SparseGradientError: the gradient is sparse.
            DataParallelError: DistributedDataParallel wraps a parameter.
            HyperparameterError: a value of an edited group is out of its range; or a state of the
                parameter lies in a file, and the optimizer has a process group.
            MidBatchError: within a mini-batch, an edited group needs other states.
            RanksDifferError: a state that all ranks take from rank 0 does not come.
            TierFullError, TransferError: the disk that holds the states is full, or fails.
        """
        self.absorb_all([(param, grad)])

    def waits(self, param: Tensor) -> bool:
        """Returns whether a parameter's gradient must stay in `.grad`, and may not be folded yet.

        For example, another backward may be about to add to the gradient. If the gradient must
        stay, remembers the parameter for `absorb_held`, which folds such gradients later.
        """
        waits = self.more_to_come is not None and self.more_to_come(param)
        if waits:
            self._incomplete.add(param)
        else:
            self._incomplete.discard(param)
        return waits

    def absorb_held(self) -> None:
        """Folds the gradients that had to stay in `.grad` (`waits`). Raises what `absorb` raises.

        Each counts as the gradient of one micro-batch. Called before the next forward, and by
        step(). In mode "release", does nothing: a later backward or step() absorbs the gradients.
        """
        if not self.writes_parameters:
            while self._incomplete:
                param = self._incomplete.pop()
                if (grad := param.grad) is not None:
                    param.grad = None
                    self.absorb(param, grad)

    def check_room(self, params: Iterable[Tensor]) -> None:
        """Raises SecondBackwardError if a parameter has had all its gradients of the mini-batch."""
        most = self.micro_batches
        for param in params if self._folded else ():
            if self._folded.get(param, 0) >= most:
                raise self._second_backward(param)

    def _second_backward(self, param: Tensor) -> SecondBackwardError:
        name = self._members.name(param)
        return refusals.second_backward(name, self.micro_batches, self.writes_parameters)

    def absorb_all(
        self, gradients: Sequence[tuple[Tensor, Tensor]], loaded: State = NOTHING
    ) -> None:
        """Folds several (parameter, gradient) pairs as `absorb` does, in fewer kernel calls.

        loaded: by name, state tensors that a compiled graph has read from a file and will write
            back. If there are any, `gradients` has only one pair, whose states they are.
        """
        if not self._folded:
            self._begin()
        # a backward runs under no_grad already, and entering no_grad takes as long as some folds
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            self._absorb(gradients, 1 / self.micro_batches, 1, loaded)

    @torch.no_grad()
    def absorb_rows(self, param: Tensor, grad: Tensor, start: int) -> None:
        """Folds the gradient of some rows of a parameter.

        The whole gradient counts as folded when the caller has passed each row once, in any order.
        If the gradient can no longer be folded by rows, for example because clipping needs it
        whole, its blocks are collected in memory, and it is folded when all of them have come.

        Args:
            param: the parameter.
            grad: the gradient of rows [start, start + len(grad)), slices of dimension 0.
            start: the first of these rows.

        Raises:
            SecondBackwardError: these rows have come already, or the parameter has had all its
                gradients of this mini-batch.
            OptimizerError: edited groups are refused, or DistributedDataParallel wraps a parameter.
            TransferError: the gradient is folded whole, and a state's file cannot be read, say.
        """
        blocks = self._blocks
        if blocks.has(param, start):
            raise self._second_backward(param)
        begun = blocks.has_begun(param)
        if not begun:
            self._begin_rows(param)
        complete = blocks.add(param, grad, start)
        if param in blocks.joined:
            if complete:
                self.absorb(param, blocks.joined.pop(param))
            return
        seen = self._folded.get(param, 0)
        whole = Release(self.rule_of(param), self.state_of(param), param, grad)
        update = of_rows(whole, start)
        if self.writes_parameters:
            release([update], counted=begun)
        else:
            fold(update, self._members.name, seen, 1 / self.micro_batches, self.ranks)
        if complete:
            self._folded[param] = seen + 1
            self._send_complete()

    def formulas(self, params: Sequence[Tensor]) -> list[BoundFormula] | None:
        """Returns formulas by which a graph can itself fold the next gradients of some parameters.

        The caller has to call `count_folds` once the graph has run.

        Returns:
            A formula for each parameter, in their order; None if Python has to carry out one of the
            folds, such as with clipping, on several ranks, or by a rule without formulas.

        Raises:
            SecondBackwardError: a parameter has had all its gradients of this mini-batch.
            OptimizerError: edited groups are refused, or DistributedDataParallel wraps a parameter.
        """
        if not self._folded:
            self._begin()
        self.check_room(params)
        clips = self.writes_parameters and self.max_norm is not None
        alone = not isinstance(self.ranks, Ranks)
        if clips or not alone or any(p not in self._members.places for p in params):
            return None
        rules = [self.rule_of(p) for p in params]
        if self._may_differ:  # `rule_of` has made a new rule: a group's values have changed
            self.look_at_groups()
        scale = None if self.writes_parameters else 1 / self.micro_batches
        found = [
            bound(rule, self.state_of(p), p, self._folded.get(p, 0), scale)
            for rule, p in zip(rules, params, strict=True)
        ]
        whole = [each for each in found if each is not None]
        return whole if len(whole) == len(found) else None

    @torch.no_grad()
    def count_folds(self, params: Sequence[Tensor]) -> None:
        """Counts one gradient of each parameter as folded, after a graph has run its `formulas`.

        In mode "release", also counts an update in each parameter's state tensor "step", and bumps
        the parameter's version counter.
        """
        for param in params:
            self._folded[param] = self._folded.get(param, 0) + 1
        if self.writes_parameters:
            count([self.state_of(param) for param in params])
            torch.autograd.graph.increment_version(params)  # autograd sees no writes of a graph

    def _begin_rows(self, param: Tensor) -> None:
        """Prepares for the first rows of a gradient: decides whether its blocks have to be joined.

        They have to if, since the backward was compiled, the parameter has left the groups, its
        states have moved to a file, or its fold needs the whole gradient now, such as for clipping.
        If not, raises SecondBackwardError if the mini-batch has had all gradients of the parameter.
        """
        if not self._folded:
            self._begin()
        if self._may_differ:
            self.look_at_groups()
        held = param in self._members.places
        if not held or is_stored(self.state_of(param)) or not self.works_by_rows(param):
            self._blocks.join(param)
        else:
            self.check_room([param])

    def _absorb(
        self,
        gradients: Sequence[tuple[Tensor, Tensor]],
        scale: float,
        micro_batches: int,
        loaded: State = NOTHING,
    ) -> None:
        releases, most = self.writes_parameters, self.micro_batches
        places, folded, name = self._members.places, self._folded, self._members.name
        together: list[Release] = []
        for param, grad in gradients:
            if param not in places:  # the user removed the parameter after the forward
                param.grad = grad.clone() if param.grad is None else param.grad + grad
                continue
            seen = folded.get(param, 0)
            if seen + micro_batches > most:
                raise self._second_backward(param)
            if grad.layout is not torch.strided:
                raise refusals.sparse(self._members.name(param), type(self).__name__)
            rule = self.rule_of(param)
            if self._may_differ:  # `rule_of` has made a new rule: a group's values have changed
                self.look_at_groups()
            state = self.state_of(param)
            if is_stored(state):
                if self._early is not None:
                    raise refusals.ranks_stored()
                with self._stored.lent(state, loaded) as lent:
                    folded[param] = seen + micro_batches
                    if releases:
                        release([Release(rule, lent, param, self._clipped(lent, grad))])
                    else:
                        fold(Release(rule, lent, param, grad), name, seen, scale, self.ranks)
                continue
            folded[param] = seen + micro_batches
            if releases:
                together.append(Release(rule, state, param, self._clipped(state, grad)))
            else:
                fold(Release(rule, state, param, grad), name, seen, scale, self.ranks)
        if together:
            release(together)
        self._send_complete()

    def _send_complete(self) -> None:
        """Sends large states to other ranks, if no gradient of the mini-batch will change them."""
        if self._early is not None:
            folded, most = self._folded, self.micro_batches
            self._early.go_on(self, lambda param: folded.get(param) == most)

    def _clipped(self, state: dict[str, Tensor], grad: Tensor) -> Tensor:
        if self.max_norm is None:
            return grad
        if self._factor is None:
            self._factor = self._clipping.of_last_step(self.state.values())
        return self._clipping.clipped(state, grad, self._factor)

    def _begin(self) -> None:
        """Begins a mini-batch: fits the states to edited groups, and checks data-parallel training.

        Remembers the values that the backward uses: step() warns if they have changed by then.
        Warns if several ranks train and nothing sums their gradients before they are folded. Runs
        before every gradient until the first one of the mini-batch is folded.

        Raises:
            HyperparameterError, MidBatchError: the rules or states do not allow a user's edit.
            DataParallelError: DistributedDataParallel wraps a parameter.
        """
        self.look_at_groups()
        params = () if isinstance(self.ranks, Ranks) else self._members.places.keys()
        self._notices.look_for_ranks(self.holds, params)
        self._notices.begin(self._members, self._used)
