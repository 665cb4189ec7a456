"""Defines an optimizer that folds gradients by a rule, and ends mini-batches.

backward    absorb, absorb, ...       each gradient when it is complete (`absorbing`)
step()      absorbs what is left in .grad; in mode "accumulate", updates the parameters
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from roam.optim import refusals
from roam.optim.absorbing import AbsorbingOptimizer
from roam.optim.stored_states import is_stored
from roam.optim.updates import Release, apply_all, combine


class FoldingOptimizer(AbsorbingOptimizer):
    """A torch.optim.Optimizer that absorbs each gradient as soon as it is complete.

    Learning rate, betas, step counts and state are looked up when a gradient comes, so all of them
    may change between steps. `.grad` is None after a backward, unless the gradient has to wait
    there (`waits`). If `step()` finds another gradient in `.grad`, because the user put it there or
    the parameter has no hook yet, that gradient counts as the sum of the whole mini-batch.
    Optimizers of different parameters are independent, in threads too. Hooks, compiled graphs and
    options do not keep the optimizer alive.

    Before the first backward of a mini-batch, values and parameters of `param_groups` may change.
    The first gradient of an added parameter may stay in `.grad` until step() absorbs it; its later
    gradients are absorbed in the backward. A change between a backward and its step() gets a
    LateChangeWarning: the gradients that the backward absorbed stay absorbed.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Ends the mini-batch. In mode "accumulate", updates the parameters.

        In mode "release" the backward has updated them. In both modes, gradients found in `.grad`
        are absorbed first. Without any gradient, no parameter changes. Within `deferred`, all this
        is postponed to the end of the context.

        Args:
            closure: called first, with gradients on, as in torch.optim: it may run a backward.

        Returns:
            What the closure returns; None without one.

        Raises:
            MicroBatchError: some micro-batches of the mini-batch have not run.
            LostParameterError: a newer optimizer has taken over a parameter.
            SecondBackwardError: a parameter with folded gradients has one in `.grad` too.
            SparseGradientError: a gradient in `.grad` is sparse.
            HyperparameterError, MidBatchError: the rules or states do not allow an edit of the
                groups; or there is a process group, and a state lies in a file.
            DataParallelError: DistributedDataParallel wraps a parameter.
            RanksDifferError: a state that all ranks take from rank 0 does not come.
            TierFullError, TransferError: the disk that holds the states is full, or fails.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        if self._deferred:
            self._due.append(True)
            mark_step()
        else:
            self._finish()
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets every `.grad` as torch does. A gradient that was folded has left None there.

        Does nothing within `deferred`.
        """
        # within `deferred`, dynamo may trace this call as a part of the step: parameters that are
        # read from param_groups would become constants of the graph
        if self._deferred:
            return
        if any(param.grad is not None for group in self.param_groups for param in group["params"]):
            super().zero_grad(set_to_none)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A context for a run of a step as one graph; postpones `step()` to the context's end.

        In mode "accumulate", the gradients that the graph left in `.grad` are folded first at the
        end of the context, as hooks would have done. Otherwise step() would take each of these
        gradients for the sum of a whole mini-batch. If the context ends by an exception, nothing
        is folded and no postponed step() runs. Raises what `step()` raises.
        """
        self.look_at_groups()
        self._deferred = True
        self._due.clear()
        try:
            yield
        finally:
            self._deferred = False
        if not self.writes_parameters:
            for param in self._members:
                if (grad := param.grad) is not None:
                    param.grad = None
                    self.absorb(param, grad)
        for _ in self._due:
            self._finish()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _finish(self) -> None:
        self.look_at_groups()
        for param in self._lost:
            raise refusals.lost(self._members.name(param))
        self.absorb_held()
        done = max(self._folded.values(), default=0)
        if 0 < done < self.micro_batches:
            raise refusals.unfinished(done, self.micro_batches)
        if self._folded:
            self._notices.end(self._folded.keys(), self._members)
            for param in [p for p in self._folded if p not in self._members.places]:
                del self._folded[param]
        self._absorb_the_rest()
        if not self.writes_parameters:
            params = self._combined()
            rules, states = map(self.rule_of, params), map(self.state_of, params)
            apply_all(self._clipping, [*rules], [*states], params)
        self._stored.settle()
        self._forget()
        self._hooks.add_missing()

    def state_dict(self) -> StateDict:
        """Returns the state dict, as torch.optim does. Reads states that lie in a file.

        Raises:
            MidBatchError: gradients were folded since the last step().
            HyperparameterError: a value of an edited group is out of its range, or does not fit.
            TransferError: a state does not come back from the file as it was sent.
        """
        self._between_batches("state_dict()")
        return super().state_dict()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Loads a state dict, as torch.optim does, and drops an unfinished mini-batch.

        Raises:
            StateMismatchError: a state tensor that a parameter needs is missing or has another
                shape, or the state dict is of an optimizer with amsgrad or maximize.
            ValueError: the state dict has other groups, by number of parameters.
            HyperparameterError, MidBatchError: a value of a group is out of its range, or an edit
                of the groups is refused.
            TierFullError, TransferError: the disk that holds the states is full, or fails.
        """
        super().load_state_dict(state_dict)
        self._forget()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Raises GradScalerError when read: GradScaler.step reads this attribute first."""
        raise refusals.grad_scaler(type(self).__name__)

    def asked_for_gradient(self, param: Tensor | None) -> None:
        """Warns if the gradient that the user's code looks for was folded in this mini-batch.

        `param` is the parameter that the gradient belongs to; None for any parameter.
        """
        if param in self._folded if param is not None else self._folded:
            self._notices.clipping()

    def _own_again(self) -> None:
        self.more_to_come = None
        super()._own_again()

    def _absorb_the_rest(self) -> None:
        """Absorbs each gradient found in `.grad` as the sum of a whole mini-batch.

        Raises:
            SecondBackwardError: the parameter of such a gradient has folded gradients already.
            SparseGradientError: such a gradient is sparse.
        """
        n = self.micro_batches
        for param in self._members:
            if (grad := param.grad) is not None:
                self._absorb([(param, grad / n if n > 1 else grad)], 1.0, n)
                param.grad = None

    def _forget(self) -> None:
        """Forgets which gradients were folded: the next gradient begins a new mini-batch.

        Waits for states that are being sent to other ranks.
        """
        if self._early is not None:
            # only in a mini-batch that ends without step() are states still being sent
            self._early.finish()
        self._folded.clear()
        self._blocks.clear()
        self._incomplete.clear()
        self._factor = None
        self.mini_batches += 1

    def _combined(self) -> list[Tensor]:
        """Combines states over the ranks, if there are several. Returns the parameters to update.

        These are the parameters with folded gradients, on this rank or any other.

        Raises:
            HyperparameterError: there are several ranks, and a state lies in a file.
        """
        if self._early is None:
            return [*self._folded]
        params = [param for param in self._members if param not in self._lost]
        states = [self.state_of(param) for param in params]
        if any(map(is_stored, states)):
            raise refusals.ranks_stored()
        every = zip(map(self.rule_of, params), states, params, params, strict=True)
        return combine(self._early, self, [Release(*each) for each in every], self._folded)

    def _between_batches(self, what: str) -> None:
        if self._folded or self._blocks:
            raise refusals.mid_batch(what)


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def mark_step() -> None:
    """Does nothing. In a captured graph, its node marks where `step()` was called."""
