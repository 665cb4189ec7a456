"""Defines an optimizer that folds gradients by a rule, and counts micro-batches.

Gradients come from three sources:

    eager      AccumulateGrad ──► hook ──────────┐
    compiled   an op of the backward graph ──────┼──► absorb(param, grad) ──► rule
    by hand    param.grad, found in step() ──────┘

The hook of a parameter is also called after a compiled backward. If the graph has folded the
gradient, the hook then finds none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, StateDict

from roam.core.errors import HyperparameterError
from roam.core.folds import FoldNeeds
from roam.core.offload_to import OffloadTo
from roam.optim import refusals
from roam.optim.clipping import watch
from roam.optim.fold import STEP, AccumulatingRule, FoldRule, Group, State, StateSpec, Turn, Update
from roam.optim.group_rules import named
from roam.optim.max_norm import MaxNorm
from roam.optim.notices import Notices
from roam.optim.ranks import Ranks
from roam.optim.scratch import scratch
from roam.optim.states import StatefulOptimizer
from roam.optim.stored_states import arrived, fetch, in_memory, is_stored

Mode = Literal["release", "accumulate"]
ONE = torch.ones((), dtype=STEP.dtype)
NOTHING: State = {}


class FoldingOptimizer(StatefulOptimizer):
    """A torch.optim.Optimizer that absorbs each gradient as soon as it is complete.

    Learning rate, betas, step counts and state are looked up when a gradient comes, so all of them
    may change between steps. `.grad` is None after a backward. If `step()` finds a gradient in
    `.grad`, because the user put it there or the parameter was frozen before, that gradient counts
    as the sum of the whole mini-batch. Optimizers of different parameters are independent, in
    threads too. Hooks, compiled graphs and options do not keep the optimizer alive.

    Between step() and the next backward, values and parameters of `param_groups` may be changed.
    The first gradient of an added parameter may stay in `.grad` until step() absorbs it; its later
    gradients are absorbed in the backward. A change between a backward and its step() gets a
    LateChangeWarning: the gradients that the backward absorbed stay absorbed.
    """

    def __init_subclass__(cls, **how: Any) -> None:
        """Derives the constructor's arguments from the rule, and lets groups name the rule."""
        super().__init_subclass__(**how)
        if "rule" in vars(cls):
            named[cls.__name__] = cls.rule
            cls.__signature__ = _signature(cls.rule)  # type: ignore[attr-defined]

    def __init__(self, params: ParamsT, *args: Any, **values: Any) -> None:
        given = _signature(self.rule).bind(params, *args, **values)
        given.apply_defaults()
        defaults = dict(given.arguments)
        mode, micro_batches = defaults.pop("mode"), defaults.pop("micro_batches")
        params, group = defaults.pop("params"), defaults.pop("process_group")
        self.max_norm = MaxNorm(defaults.pop("max_norm"), defaults.pop("clip_by"))
        self._factor: Tensor | None = None  # of this mini-batch's gradients; None if not known yet
        if mode not in get_args(Mode):
            raise HyperparameterError(f"mode={mode!r}: there are {get_args(Mode)}")
        self.mode: Mode = mode
        # function that tells whether a gradient has to stay in .grad; None if no gradient has to
        self.more_to_come: Callable[[Tensor], bool] | None = None
        self.mini_batches = 0  # number of mini-batches that have ended
        self._folded: dict[Tensor, int] = {}  # parameter -> count of folds in this mini-batch
        self._incomplete: set[Tensor] = set()  # parameters whose gradient has to stay in .grad
        self._notices = Notices(type(self).__name__)
        self._deferred = False
        # one True for each postponed step(); a list, because a traced step() can set no attribute
        self._due: list[bool] = []
        self._ranks = None if group is None else Ranks(group)
        if self._ranks is not None and mode != "accumulate":
            raise refusals.ranks_release()
        self.micro_batches = micro_batches
        super().__init__(params, defaults)
        if self._ranks is not None:
            self._ranks.check_alike(self.named())
        watch()

    @property
    def micro_batches(self) -> int:
        """The number of backwards in a mini-batch."""
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
    def sent(self) -> int:
        """Elements of states that this rank has given to all_reduce so far."""
        return 0 if self._ranks is None else self._ranks.sent

    @property
    def writes_parameters(self) -> bool:
        """Whether absorbing a gradient also updates the parameter, as in mode "release"."""
        return self.mode == "release"

    def scratch(self, param: Tensor, grad: Tensor) -> int:
        """Returns the most bytes that absorbing this gradient allocates at a time.

        The tensors may be fake.
        """
        rule, releases = self.rule_of(param), self.writes_parameters
        copy = grad.numel() * grad.itemsize if releases and self.max_norm.limit else 0
        return scratch(rule, param, grad, releases=releases) + copy

    def states_of(self, param: Tensor) -> tuple[StateSpec, ...]:
        return super().states_of(param) + self.max_norm.states(self.writes_parameters)

    def accept(self, rule: FoldRule) -> None:
        if self.mode == "accumulate" and rule.release_only:
            raise refusals.release_only(type(rule).__name__, rule.release_only)
        clips = self.mode == "accumulate" and self.max_norm.limit is not None
        if clips and not (isinstance(rule, AccumulatingRule) and rule.has_momentum):
            raise refusals.unclipped(type(rule).__name__)
        if self._ranks is not None and not (isinstance(rule, AccumulatingRule) and rule.over_ranks):
            raise refusals.alone(type(rule).__name__)

    def needs(self, param: Tensor, grad: Tensor, to: OffloadTo | None = None) -> FoldNeeds:
        """Returns what a plan has to know of folding this gradient. The tensors may be fake.

        to: where states would be; None for where they are.
        """
        specs = [(spec, self._stored.stored(param, spec, to)) for spec in self.spec(param)]
        here = tuple((spec.name, spec.bytes) for spec, stored in specs if stored is None)
        stored = tuple(found for _, found in specs if found is not None)
        return FoldNeeds(here, self.scratch(param, grad), self.writes_parameters, stored)

    def absorb(self, param: Tensor, grad: Tensor) -> None:
        """Folds a parameter's complete gradient of one micro-batch, which may be freed then.

        Raises:
            SecondBackwardError: the parameter has had all its gradients of this mini-batch.
            SparseGradientError: the gradient is sparse.
            DataParallelError: DistributedDataParallel wraps a parameter.
        """
        self.absorb_all([(param, grad)])

    def waits(self, param: Tensor) -> bool:
        """Returns whether a parameter's gradient has to stay in `.grad`, and not be folded yet.

        For example, another backward may be about to add to the gradient.
        """
        waits = self.more_to_come is not None and self.more_to_come(param)
        if waits:
            self._incomplete.add(param)
        else:
            self._incomplete.discard(param)
        return waits

    def absorb_held(self) -> None:
        """Folds the gradients that had to stay in `.grad` (see `waits`), after a micro-batch.

        Does nothing in mode "release".
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
                name = self._members.name(param)
                raise refusals.second_backward(name, most, self.writes_parameters)

    def absorb_all(
        self, gradients: Sequence[tuple[Tensor, Tensor]], loaded: State = NOTHING
    ) -> None:
        """Folds several (parameter, gradient) pairs as `absorb` does, in fewer kernel calls.

        loaded: stored state tensors of the only parameter that a graph has loaded, by name. The
            graph writes them back.
        """
        if not self._folded:
            self._begin()
        # a backward runs under no_grad already, and entering no_grad takes as long as some folds
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            self._absorb(gradients, 1 / self.micro_batches, 1, loaded)

    def _absorb(
        self,
        gradients: Sequence[tuple[Tensor, Tensor]],
        scale: float,
        micro_batches: int,
        loaded: State = NOTHING,
    ) -> None:
        releases, most = self.writes_parameters, self.micro_batches
        places, folded = self._members.places, self._folded
        together: list[tuple[FoldRule, dict[str, Tensor], Tensor, Tensor]] = []
        for param, grad in gradients:
            if param not in places:  # the user removed it after the forward
                param.grad = grad.clone() if param.grad is None else param.grad + grad
                continue
            seen = folded.get(param, 0)
            if seen + micro_batches > most:
                raise refusals.second_backward(self._members.name(param), most, releases)
            if grad.layout is not torch.strided:
                raise refusals.sparse(self._members.name(param), type(self).__name__)
            rule = self.rule_of(param)
            state = self.state_of(param)
            if is_stored(state):
                with self._stored.lent(state, loaded) as lent:
                    folded[param] = seen + micro_batches
                    if releases:
                        _release([(rule, lent, param, self._clipped(lent, grad))])
                    else:
                        self._fold(rule, _update(lent, param, grad), seen, scale)
                continue
            folded[param] = seen + micro_batches
            if releases:
                together.append((rule, state, param, self._clipped(state, grad)))
            else:
                self._fold(rule, _update(state, param, grad), seen, scale)
        if together:
            _release(together)

    def _fold(self, rule: FoldRule, update: Update, seen: int, scale: float) -> None:
        """Folds one of `1 / scale` gradients. seen: how many of them were folded before.

        The update is counted at the end of the mini-batch.
        """
        if not isinstance(rule, AccumulatingRule):
            raise refusals.release_only(type(rule).__name__, rule.release_only)
        state, param, grad, done = update
        if seen == 0:
            self._decay(rule, state, param, done + 1)
        rule.fold(state, param, grad, Turn(done + 1, seen, scale))

    def _decay(self, rule: AccumulatingRule, state: State, param: Tensor, step: int) -> None:
        rule.decay(state, param, step)
        if self._ranks is not None:
            self._ranks.begin(state, rule.over_ranks)

    def _clipped(self, state: dict[str, Tensor], grad: Tensor) -> Tensor:
        if self.max_norm.limit is None:
            return grad
        if self._factor is None:
            self._factor = self.max_norm.of_last_step(self.state.values())
        return self.max_norm.clipped(state, grad, self._factor)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Ends the mini-batch. In mode "accumulate", updates the parameters.

        In mode "release" the backward has updated them. Does nothing if no backward has run.

        Args:
            closure: called first, with gradients on, as in torch.optim: it may run a backward.

        Returns:
            What the closure returns.

        Raises:
            MicroBatchError: some micro-batches of the mini-batch have not run.
            LostParameterError: a newer optimizer has taken over a parameter.
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
        """Resets every `.grad` as torch does. A gradient that was folded has left None there."""
        # returns early if traced: parameters read from param_groups would be no inputs of the graph
        if self._deferred:
            return
        if any(param.grad is not None for group in self.param_groups for param in group["params"]):
            super().zero_grad(set_to_none)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A context for a run of a step as one graph; postpones `step()` to the context's end.

        In mode "accumulate", the end of the context first folds the gradients that the graph left
        in `.grad`, as hooks would have done. Otherwise step() would take each of these gradients
        for the sum of a whole mini-batch.
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
            self._apply_all(self._combined())
        self._stored.settle()
        self._forget()
        self._hooks.add_missing()

    def state_dict(self) -> StateDict:
        """Returns the state dict. Raises MidBatchError in the middle of a mini-batch."""
        self._between_batches("state_dict()")
        return super().state_dict()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Loads a state dict as `StatefulOptimizer` does, and drops an unfinished mini-batch."""
        super().load_state_dict(state_dict)
        self._forget()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Raises GradScalerError, because GradScaler.step reads this attribute first."""
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

    def _begin(self) -> None:
        """Begins a mini-batch: looks for edits of the groups, and for other ranks that train."""
        self.look_at_groups()
        params = () if self._ranks is not None else self._members.places.keys()
        self._notices.look_for_ranks(self.holds, params)
        self._notices.begin(self._members, self._used)

    def _used(self, group: Group) -> tuple[str, ...]:
        """Returns the names of the group's values that the backward uses."""
        return self._rules.names(group) if self.writes_parameters else self._rules.folds_with(group)

    def _absorb_the_rest(self) -> None:
        """Absorbs each gradient found in `.grad` as the sum of a whole mini-batch."""
        n = self.micro_batches
        for param in self._members:
            if (grad := param.grad) is not None:
                self._absorb([(param, grad / n if n > 1 else grad)], 1.0, n)
                param.grad = None

    def _forget(self) -> None:
        """Forgets which gradients were folded: the next gradient begins a new mini-batch."""
        self._folded.clear()
        self._incomplete.clear()
        self._factor = None
        self.mini_batches += 1

    def _combined(self) -> list[Tensor]:
        """Returns the parameters to update, with their states combined over the ranks."""
        if self._ranks is None:
            return [*self._folded]
        params = [p for p in self._members if p not in self._lost]
        if any(is_stored(self.state_of(p)) for p in params):
            raise refusals.ranks_stored()
        here = [p in self._folded for p in params]
        anywhere = self._ranks.any_folded(here, params[0].device)
        states = []
        for param, on_this_rank, on_any in zip(params, here, anywhere, strict=True):
            if on_any:
                rule, update = self.rule_of(param), _update(self.state_of(param), param, param)
                assert isinstance(rule, AccumulatingRule)  # `accept` has seen to that
                if not on_this_rank:
                    self._decay(rule, update.state, update.param, update.step + 1)
                states.append((update.state, rule.over_ranks))
        self._ranks.combine(states)
        return [p for p, on_any in zip(params, anywhere, strict=True) if on_any]

    def _apply_all(self, params: Sequence[Tensor]) -> None:
        """Updates parameters. While one is updated, stored states of the next are read."""
        states = [self.state_of(param) for param in params]
        rules = [self.rule_of(param) for param in params]
        factor = self._shortening(rules, states)
        fetched = fetch(states[0]) if states else {}
        for i, (param, state) in enumerate(zip(params, states, strict=True)):
            found = arrived(state, fetched)
            fetched = fetch(states[i + 1]) if i + 1 < len(states) else {}
            step = found["step"]
            step += 1
            rule = rules[i]
            if param.is_complex():
                param, found = torch.view_as_real(param), _real(found)
            if not isinstance(rule, AccumulatingRule):
                raise refusals.release_only(type(rule).__name__, rule.release_only)
            rule = rule.shortened(factor) if 0 < factor < 1 else rule
            rule.apply(found, param, int(step))

    def _shortening(self, rules: Sequence[FoldRule], states: Sequence[dict[str, Any]]) -> float:
        """Returns the factor of all updates, by the norm of the momentum (see `max_norm`)."""
        if self.max_norm.limit is None:
            return 1.0
        squares = 0.0
        for rule, state in zip(rules, states, strict=True):
            assert isinstance(rule, AccumulatingRule)  # `accept` has seen to that
            here = _real(in_memory(state))
            squares += float(rule.squared_momentum(here, int(here["step"]) + 1))
        return float(self.max_norm.factor(torch.tensor(squares).sqrt()))

    def _between_batches(self, what: str) -> None:
        if self._folded:
            raise refusals.mid_batch(what)


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def mark_step() -> None:
    """Does nothing. In a captured graph, its node marks where `step()` was called."""


def _signature(rule: type[FoldRule]) -> inspect.Signature:
    """Returns the arguments of an optimizer: the parameters, the rule's values, and the mode."""
    either, word = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    values = rule.defaults().items()
    return inspect.Signature(
        (
            inspect.Parameter("params", either),
            *(inspect.Parameter(name, either, default=value) for name, value in values),
            inspect.Parameter("mode", word, default="release"),
            inspect.Parameter("micro_batches", word, default=1),
            inspect.Parameter("max_norm", word, default=None),
            inspect.Parameter("clip_by", word, default="previous step"),
            inspect.Parameter("process_group", word, default=None),
        )
    )


def _release(updates: Sequence[tuple[FoldRule, dict[str, Tensor], Tensor, Tensor]]) -> None:
    """Counts updates and carries them out: given as (rule, state, parameter, gradient).

    Parameters with the same rule are updated together.
    """
    # adds the tensor ONE: a Python number would become a new tensor for each step count
    torch._foreach_add_([state["step"] for _, state, _, _ in updates], ONE, alpha=1.0)
    by_rule: dict[int, tuple[FoldRule, list[Update]]] = {}
    for rule, state, param, grad in updates:
        by_rule.setdefault(id(rule), (rule, []))[1].append(_update(state, param, grad))
    for rule, together in by_rule.values():
        rule.release(together)


def _update(state: dict[str, Tensor], param: Tensor, grad: Tensor) -> Update:
    """Returns the update of a parameter, with real views of complex tensors."""
    step = int(state["step"])
    if param.is_complex():
        grad = torch.view_as_real(grad.resolve_conj())
        param, state = torch.view_as_real(param), _real(state)
    return Update(state, param, grad, step)


def _real(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.view_as_real(t) if t.is_complex() else t for k, t in state.items()}
