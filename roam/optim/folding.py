"""The optimizer around a fold rule: counting, hooks and state.

    eager      AccumulateGrad ──► hook ──────────┐
    compiled   an op of the backward graph ──────┼──► absorb(param, grad) ──► rule
    by hand    param.grad, found in step() ──────┘

The hook of a parameter fires in a compiled backward too, but finds no gradient where the graph has
folded it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict

from roam.core.errors import HyperparameterError
from roam.optim import refusals
from roam.optim.fold import FoldNeeds, FoldRule, Group, StateSpec, Update
from roam.optim.handle import OptimizerHandle
from roam.optim.hooks import Hooks, distributed, in_data_parallel
from roam.optim.state_dicts import check_fits, copied_attributes

Mode = Literal["release", "accumulate"]
STEP = StateSpec("step", (), torch.float32)  # how often the parameter was updated; on the CPU
ONE = torch.ones((), dtype=STEP.dtype)


class FoldingOptimizer(Optimizer):
    """A torch.optim.Optimizer that absorbs each gradient as soon as it is complete.

    All that can change (learning rate, betas, step counts, state) is looked up when a gradient
    comes. `.grad` is None after a backward. A gradient that is in `.grad` when `step()` is called,
    because somebody put it there or its parameter was frozen before, is taken as the mini-batch's
    sum. Optimizers of different parameters are independent, in threads too. A deleted optimizer
    leaves its parameters without one: hooks, compiled graphs and options do not keep it alive.
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
        self.rule = rule
        self.mode = mode
        self.guard: Callable[[Tensor], None] | None = None  # may refuse what `absorb` is given
        self._hooks = Hooks(self)
        self._places: dict[Tensor, tuple[int, int]] = {}  # a parameter's group, and where there
        self._folded: dict[Tensor, int] = {}  # how many of its gradients of this mini-batch
        self._unhooked: set[Tensor] = set()
        self._lost: set[Tensor] = set()  # to newer optimizers, which fold their gradients
        self._looked_for_ddp = False
        self._deferred = False
        self._due: list[bool] = []  # a list: what dynamo captures changes no attribute
        self.micro_batches = micro_batches
        super().__init__(params, defaults)

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

    def holds(self, param: Tensor) -> bool:
        """Whether this optimizer folds the parameter's gradient."""
        return param in self._places and param not in self._lost

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters whose gradients it folds."""
        return ((self._name(p), p) for p in self._places if p not in self._lost)

    def spec(self, param: Tensor) -> tuple[StateSpec, ...]:
        """The state of a parameter, whether it is there yet or not."""
        return (*self.rule.state(param), STEP)

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
        if self.guard is not None:
            self.guard(param)
        self.absorb_all([(param, grad)])

    def absorb_all(self, gradients: Sequence[tuple[Tensor, Tensor]]) -> None:
        """As `absorb`, for several parameters at once, with their gradients: in fewer calls."""
        # a backward has it off already, and switching takes as long as several parameters do
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            self._absorb(gradients, 1 / self.micro_batches, 1)

    def _absorb(
        self, gradients: Sequence[tuple[Tensor, Tensor]], scale: float, micro_batches: int
    ) -> None:
        if not self._folded:
            self._look_for_data_parallel()
        releases, most = self.writes_parameters, self.micro_batches
        groups, folded = self.param_groups, self._folded
        updates: list[Update] = []
        for param, grad in gradients:
            seen = folded.get(param, 0)
            if seen + micro_batches > most:
                raise refusals.second_backward(self._name(param), most, releases)
            if grad.layout is not torch.strided:
                raise refusals.sparse(self._name(param), type(self).__name__)
            group = groups[self._places[param][0]]
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

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Ends the mini-batch: updates the parameters, which mode "release" has done already.

        Without a backward before it, it does nothing. Raises MicroBatchError, ClosureError,
        LostParameterError.
        """
        if self._deferred:
            self._due.append(True)
        else:
            self._finish(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch; no gradient of this optimizer's is left after a step."""
        if not self._deferred and any(param.grad is not None for param in self._places):
            super().zero_grad(set_to_none)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, `step()` is put off to the end: for a graph that step() is captured in.

        In mode "accumulate" a gradient that the graph left in `.grad` is folded then, as a hook
        would have folded it: at the end of the mini-batch it could not be told from a sum.
        """
        self._deferred = True
        self._due.clear()
        try:
            yield
        finally:
            self._deferred = False
        if not self.writes_parameters:
            for param in self._places:
                if (grad := param.grad) is not None:
                    param.grad = None
                    self.absorb(param, grad)
        for _ in self._due:
            self._finish(None)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _finish(self, closure: Callable[[], float] | None) -> None:
        if closure is not None:
            raise refusals.closure(type(self).__name__)
        for param in self._lost:
            raise refusals.lost(self._name(param))
        done = max(self._folded.values(), default=0)
        if 0 < done < self.micro_batches:
            raise refusals.unfinished(done, self.micro_batches)
        self._absorb_the_rest()
        if not self.writes_parameters:
            for param in self._folded:
                self._apply(param)
        self._folded.clear()
        self._hook_up()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.rule.check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for j, param in enumerate(self.param_groups[-1]["params"]):
            self._places[param] = len(self.param_groups) - 1, j
            self._unhooked.add(param)
            self._hooks.claim(param)
        self._hook_up()

    def state_dict(self) -> StateDict:
        """As in torch, at the end of a mini-batch. In the middle it raises MidBatchError."""
        self._between_batches("state_dict()")
        return super().state_dict()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """As in torch, and like there the moments are shared with `state_dict` where they can be.

        An unfinished mini-batch is forgotten. Raises StateMismatchError.
        """
        check_fits(state_dict, ((self._name(p), self.spec(p)) for p in self._places))
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        for param, state in self.state.items():
            state["step"] = torch.as_tensor(state["step"]).to("cpu", STEP.dtype, copy=True)
            for spec in self.rule.state(param):
                if spec.zeros(param.to("meta")).stride() != state[spec.name].stride():
                    state[spec.name] = spec.zeros(param).copy_(state[spec.name])
        self._folded.clear()

    @property
    def handle(self) -> OptimizerHandle:
        """What stands for the optimizer where it must not be kept alive: in options.

        Asked through a wrapper that passes for the optimizer, as Lightning has them, the handle is
        of the optimizer itself.
        """
        itself = self._hooks.optimizer()
        assert isinstance(itself, FoldingOptimizer)
        return OptimizerHandle(itself)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self | OptimizerHandle:
        """Returns an optimizer of the parameters' copies, if the model was copied before.

        `copy.deepcopy((model, optimizer))` and whatever else holds both is copied as with
        torch.optim. Without the model, as a part of something, such as the options of
        `torch.compile`, a handle of this optimizer takes its place.

        Raises OptimizerCopyError: alone there is nothing that a copy could train.
        """
        if not memo:
            raise refusals.copied(type(self).__name__)
        if not any(id(param) in memo for param in self._places):
            return self.handle
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(copied_attributes(self), memo))
        new._start_folding()
        return new

    def __getstate__(self) -> dict[str, Any]:
        raise refusals.copied(type(self).__name__)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What GradScaler.step asks an optimizer first."""
        raise refusals.grad_scaler(type(self).__name__)

    def _group(self, param: Tensor) -> Group:
        return self.param_groups[self._places[param][0]]

    def _name(self, param: Tensor) -> str:
        i, j = self._places[param]
        names = self.param_groups[i].get("param_names")
        return names[j] if names else f"parameter {j} of group {i}, {list(param.shape)}"

    def _start_folding(self) -> None:
        """Takes the parameters of a copy, whose attributes are there."""
        self.guard, self._hooks = None, Hooks(self)
        self._unhooked = {param for param in self._places if param not in self._lost}
        for param in self._unhooked:
            self._hooks.claim(param)
        self._hook_up()

    def _hook_up(self) -> None:
        """Hooks for parameters that are new, or not frozen any more."""
        for param in [p for p in self._unhooked if p.requires_grad]:
            self._unhooked.remove(param)
            self._hooks.add(param)

    def lose(self, param: Tensor) -> None:
        """A newer optimizer folds the parameter's gradients."""
        self._lost.add(param)
        self._unhooked.discard(param)
        self._hooks.remove(param)

    def _look_for_data_parallel(self) -> None:
        if not self._looked_for_ddp and distributed():
            self._looked_for_ddp = True
            if in_data_parallel(self.holds):
                raise refusals.data_parallel(type(self).__name__)

    def _absorb_the_rest(self) -> None:
        """Gradients that no hook and no graph has taken: somebody put them into `.grad`."""
        n = self.micro_batches
        for param in self._places:
            if (grad := param.grad) is not None:
                self._absorb([(param, grad / n if n > 1 else grad)], 1.0, n)
                param.grad = None

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


def _real(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.view_as_real(t) if t.is_complex() else t for k, t in state.items()}
