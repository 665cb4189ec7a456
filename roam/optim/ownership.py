"""Which parameters are an optimizer's: those in its groups, until a newer optimizer takes them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Self

from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict

from roam.core.errors import HyperparameterError
from roam.optim import refusals
from roam.optim.fold import STEP, FoldRule, Group, StateSpec
from roam.optim.groups import Members
from roam.optim.handle import OptimizerHandle
from roam.optim.hooks import Hooks
from roam.optim.state_dicts import check_fits, copied_attributes, of_members, settle


class OwningOptimizer(Optimizer):
    """A torch.optim.Optimizer that hooks its parameters, and lets go of those that leave.

    `param_groups` may be edited by hand, parameters and all: `look_at_groups` finds out.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any], rule: FoldRule) -> None:
        self.rule = rule
        self._hooks = Hooks(self)
        self._members = Members()
        self._lost: set[Tensor] = set()  # to newer optimizers, which fold their gradients
        super().__init__(params, defaults)

    def absorb(self, param: Tensor, grad: Tensor) -> None:
        """Takes in a parameter's complete gradient of one micro-batch."""
        raise NotImplementedError

    def waits(self, param: Tensor) -> bool:
        """Whether the gradient in `.grad` is to stay there, since more of it is to come."""
        raise NotImplementedError

    def asked_for_gradient(self, param: Tensor | None) -> None:
        """Called if somebody wants a parameter's gradient, and there is none; None: any one's."""

    def holds(self, param: Tensor) -> bool:
        """Whether this optimizer folds the parameter's gradient."""
        return param in self._members.places and param not in self._lost

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters whose gradients it folds."""
        return ((self._members.name(p), p) for p in self._members if p not in self._lost)

    @property
    def leaves_unfolded(self) -> bool:
        """Whether it leaves parameters unfolded at all."""
        return any(group.get("unfolded") for group in self.param_groups)

    def unfolded(self, param: Tensor) -> bool:
        """Whether its group says `"unfolded": True`: no compiled graph folds its gradient then."""
        place = self._members.places.get(param)
        return place is not None and bool(place.group.get("unfolded"))

    def hook_up(self) -> None:
        """Adds the hooks of parameters that are new, or not frozen any more."""
        self._hooks.add_missing()

    def spec(self, param: Tensor) -> tuple[StateSpec, ...]:
        """The state of a parameter, whether it is there yet or not."""
        return (*self.rule.state(param), STEP)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        self.look_at_groups()
        self._hooks.add_missing()

    def admit(self, param: Tensor, name: str | None) -> None:
        """Called for a parameter that is new in the groups. May refuse it.

        name: what the user calls it, if it has a name.
        """

    def look_at_groups(self) -> None:
        """Takes what is in `param_groups` now for the parameters whose gradients are folded."""
        before = self._members
        if before.are_in(self.param_groups):
            return
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
            self._check(group)
        now = Members(self.param_groups)
        new = [param for param in now if param not in before.places]
        for param in new:
            self.admit(param, now.given_name(param))
        self._members = now
        for param in before:
            if param not in now.places:
                self._lost.discard(param)
                self._hooks.let_go(param)
        for param in new:
            self._hooks.claim(param)

    def _check(self, group: Group) -> None:
        if not isinstance(unfolded := group.get("unfolded", False), bool):
            raise HyperparameterError(f"unfolded={unfolded!r}: True or False, for the whole group")
        self.rule.check(group)

    def _own_again(self) -> None:
        """Takes the parameters of a copy, whose other attributes are there."""
        self._hooks = Hooks(self)
        for param in self._members:
            if param not in self._lost:
                self._hooks.claim(param)
        self._hooks.add_missing()

    def lose(self, param: Tensor) -> None:
        """A newer optimizer folds the parameter's gradients."""
        self._lost.add(param)
        self._hooks.remove(param)

    def state_dict(self) -> StateDict:
        """As in torch, of the parameters that are in the groups."""
        self.look_at_groups()
        everything = self.state
        self.state = of_members(everything, self._members.places)
        try:
            return super().state_dict()
        finally:
            self.state = everything

    def load_state_dict(self, state_dict: StateDict) -> None:
        """As in torch, and like there the moments are shared with `state_dict` where they can be.

        Raises StateMismatchError.
        """
        self.look_at_groups()
        check_fits(state_dict, ((self._members.name(p), self.spec(p)) for p in self._members))
        super().load_state_dict(state_dict)
        self._members = Members(self.param_groups)  # torch makes new groups
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        for param, state in self.state.items():
            settle(param, state, self.rule.state(param))

    @property
    def handle(self) -> OptimizerHandle:
        """What stands for the optimizer where it must not be kept alive: in options.

        Asked through a wrapper that passes for the optimizer, as Lightning has them, the handle is
        of the optimizer itself.
        """
        itself: Any = self._hooks.optimizer()
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
        if not any(id(param) in memo for param in self._members):
            return self.handle
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(copied_attributes(self), memo))
        new._own_again()
        return new

    def __getstate__(self) -> dict[str, Any]:
        raise refusals.copied(type(self).__name__)

    def _group(self, param: Tensor) -> Group:
        return self._members.places[param].group
