"""The optimizer around a fold rule: counting, hooks and state.

    eager      AccumulateGrad ──► hook ──────────┐
    compiled   an op of the backward graph ──────┼──► absorb(param, grad) ──► rule
    by hand    param.grad, found in step() ──────┘

The hook of a parameter fires in a compiled backward too, but finds no gradient where the graph has
folded it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, StateDict

from roam.core.errors import HyperparameterError
from roam.core.folds import FoldNeeds
from roam.optim import refusals
from roam.optim.clipping import watch
from roam.optim.fold import STEP, FoldRule, Update
from roam.optim.notices import Notices
from roam.optim.ownership import OwningOptimizer

Mode = Literal["release", "accumulate"]
ONE = torch.ones((), dtype=STEP.dtype)


class FoldingOptimizer(OwningOptimizer):
    """A torch.optim.Optimizer that absorbs each gradient as soon as it is complete.

    All that can change (learning rate, betas, step counts, state) is looked up when a gradient
    comes. `.grad` is None after a backward. A gradient that is in `.grad` when `step()` is called,
    because somebody put it there or its parameter was frozen before, is taken as the mini-batch's
    sum. Optimizers of different parameters are independent, in threads too. A deleted optimizer
    leaves its parameters without one: hooks, compiled graphs and options do not keep it alive.

    `param_groups` may be edited, parameters and all, between step() and the next backward. The
    first gradient of a parameter that is new there may be in `.grad` until step(), which takes it;
    the others are folded in the backward. An edit between a backward and its step() gets a
    LateChangeWarning: what that backward folded stays folded.
    """

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        rule: FoldRule,
        mode: Mode,
        micro_batches: int,
    ) -> None:
        if mode not in get_args(Mode):
            raise HyperparameterError(f"mode={mode!r}: there are {get_args(Mode)}")
        self.mode = mode
        self._values = tuple(defaults)  # by name; torch adds others to self.defaults
        self.more_to_come: Callable[[Tensor], bool] | None = None  # in .grad, before step()
        self.mini_batches = 0  # that have ended
        self._folded: dict[Tensor, int] = {}  # how many of its gradients of this mini-batch
        self._held: set[Tensor] = set()  # whose gradients wait in .grad for more
        self._notices = Notices(type(self).__name__)
        self._deferred = False
        self._due: list[bool] = []  # a list: what dynamo captures changes no attribute
        self.micro_batches = micro_batches
        super().__init__(params, defaults, rule)
        watch()

    @property
    def micro_batches(self) -> int:
        """Backwards to a mini-batch."""
        return self._micro_batches

    @micro_batches.setter
    def micro_batches(self, n: int) -> None:
        if not isinstance(n, int) or n < 1:
            raise HyperparameterError(f"micro_batches={n!r}: a whole number, at least 1")
        if n > 1 and self.mode == "release":
            raise HyperparameterError(
                f"micro_batches={n} with mode='release', which updates the parameters in every "
                "backward and so cannot accumulate: use mode='accumulate'"
            )
        self._between_batches("changing micro_batches")
        self._micro_batches = n

    @property
    def writes_parameters(self) -> bool:
        """Whether absorbing a gradient changes the parameter too."""
        return self.mode == "release"

    def scratch(self, param: Tensor, grad: Tensor) -> int:
        """Bytes that absorbing this gradient allocates. Both may be fake."""
        if self.writes_parameters:
            return self.rule.release_scratch(param, grad, self._group(param))
        return self.rule.fold_scratch(param, grad, self._group(param))

    def needs(self, param: Tensor, grad: Tensor) -> FoldNeeds:
        """What a plan has to know of folding this gradient. Both may be fake."""
        state = tuple((spec.name, spec.bytes) for spec in self.spec(param))
        return FoldNeeds(state, self.scratch(param, grad), self.writes_parameters)

    def state_of(self, param: Tensor) -> dict[str, Tensor]:
        """The state of a parameter, made when it is first asked for."""
        state: dict[str, Tensor] = self.state[param]
        if not state:
            state.update({spec.name: spec.zeros(param) for spec in self.rule.state(param)})
            state["step"] = torch.zeros((), dtype=STEP.dtype)
        return state

    def absorb(self, param: Tensor, grad: Tensor) -> None:
        """Takes in a parameter's complete gradient of one micro-batch. It may be dropped then.

        Raises SecondBackwardError, SparseGradientError, DataParallelError.
        """
        self.absorb_all([(param, grad)])

    def waits(self, param: Tensor) -> bool:
        """Whether the gradient in `.grad` is to stay there, since more of it is to come."""
        waits = self.more_to_come is not None and self.more_to_come(param)
        if waits:
            self._held.add(param)
        else:
            self._held.discard(param)
        return waits

    def absorb_held(self) -> None:
        """Ends a micro-batch in mode "accumulate": gradients that waited for more are complete."""
        if not self.writes_parameters:
            while self._held:
                param = self._held.pop()
                if (grad := param.grad) is not None:
                    param.grad = None
                    self.absorb(param, grad)

    def check_room(self, params: Iterable[Tensor]) -> None:
        """Raises SecondBackwardError for one that has all gradients of its mini-batch."""
        most = self.micro_batches
        for param in params if self._folded else ():
            if self._folded.get(param, 0) >= most:
                name = self._members.name(param)
                raise refusals.second_backward(name, most, self.writes_parameters)

    def absorb_all(self, gradients: Sequence[tuple[Tensor, Tensor]]) -> None:
        """As `absorb`, for several parameters at once, with their gradients: in fewer calls."""
        if not self._folded:
            self._begin()
        # a backward has it off already, and switching takes as long as several parameters do
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            self._absorb(gradients, 1 / self.micro_batches, 1)

    def _absorb(
        self, gradients: Sequence[tuple[Tensor, Tensor]], scale: float, micro_batches: int
    ) -> None:
        releases, most = self.writes_parameters, self.micro_batches
        places, folded = self._members.places, self._folded
        updates: list[Update] = []
        for param, grad in gradients:
            if param not in places:  # it was, in the forward
                param.grad = grad.clone() if param.grad is None else param.grad + grad
                continue
            seen = folded.get(param, 0)
            if seen + micro_batches > most:
                raise refusals.second_backward(self._members.name(param), most, releases)
            if grad.layout is not torch.strided:
                raise refusals.sparse(self._members.name(param), type(self).__name__)
            group = places[param].group
            state = self.state_of(param)
            folded[param], step = seen + micro_batches, state["step"]
            if param.is_complex():
                param, grad = torch.view_as_real(param), torch.view_as_real(grad.resolve_conj())
                state = _real(state)
            if releases:
                updates.append(Update(state, param, grad, step, group))
                continue
            if seen == 0:
                self.rule.decay(state, group)
            self.rule.fold(state, grad, scale, group)
        if updates:
            # alpha has ATen take a tensor for what it is: a number becomes one for every step
            torch._foreach_add_([update.step for update in updates], ONE, alpha=1.0)
            self.rule.release(updates)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Ends the mini-batch: updates the parameters, which mode "release" has done already.

        Without a backward before it, it does nothing. Raises MicroBatchError, LostParameterError.

        Args:
            closure: called first, with gradients on, as torch.optim does: it may run a backward.

        Returns:
            What the closure returns.
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
        """As in torch; no gradient of this optimizer's is left after a step."""
        # asked first: dynamo makes no inputs of parameters that it meets in param_groups
        if self._deferred:
            return
        if any(param.grad is not None for group in self.param_groups for param in group["params"]):
            super().zero_grad(set_to_none)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, `step()` is put off to the end: for a graph that step() is captured in.

        In mode "accumulate" a gradient that the graph left in `.grad` is folded then, as a hook
        would have folded it: at the end of the mini-batch it could not be told from a sum.
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
            for param in self._folded:
                self._apply(param)
        self._forget()
        self._hooks.add_missing()

    def state_dict(self) -> StateDict:
        """As in torch, at the end of a mini-batch. In the middle it raises MidBatchError."""
        self._between_batches("state_dict()")
        return super().state_dict()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """As in torch, and like there the moments are shared with `state_dict` where they can be.

        An unfinished mini-batch is forgotten. Raises StateMismatchError.
        """
        super().load_state_dict(state_dict)
        self._forget()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What GradScaler.step asks an optimizer first."""
        raise refusals.grad_scaler(type(self).__name__)

    def asked_for_gradient(self, param: Tensor | None) -> None:
        """Warns if somebody wants a gradient that is folded. param: None for any parameter's."""
        if param in self._folded if param is not None else self._folded:
            self._notices.clipping()

    def _own_again(self) -> None:
        self.more_to_come = None
        super()._own_again()

    def _begin(self) -> None:
        """Before the first fold of a mini-batch."""
        self.look_at_groups()
        self._notices.look_for_ranks(self.holds, self._members.places.keys())
        used = self._values if self.writes_parameters else self.rule.folds_with
        self._notices.begin(self._members, used)

    def _absorb_the_rest(self) -> None:
        """Gradients that no hook and no graph has taken: somebody put them into `.grad`."""
        n = self.micro_batches
        for param in self._members:
            if (grad := param.grad) is not None:
                self._absorb([(param, grad / n if n > 1 else grad)], 1.0, n)
                param.grad = None

    def _forget(self) -> None:
        """Begins a mini-batch."""
        self._folded.clear()
        self._held.clear()
        self.mini_batches += 1

    def _apply(self, param: Tensor) -> None:
        state, group = self.state_of(param), self._group(param)
        step = state["step"]
        step += 1
        if param.is_complex():
            param, state = torch.view_as_real(param), _real(state)
        self.rule.apply(state, param, step, group)

    def _between_batches(self, what: str) -> None:
        if self._folded:
            raise refusals.mid_batch(what)


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def mark_step() -> None:
    """Leaves a node where `step()` was called in a graph that it is captured in."""


def _real(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.view_as_real(t) if t.is_complex() else t for k, t in state.items()}
