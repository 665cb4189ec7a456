"""Tracks the parameters whose gradients an optimizer folds.

These are the parameters in the optimizer's groups that no newer optimizer has claimed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from roam.core.errors import HyperparameterError
from roam.optim import refusals
from roam.optim.data_parallel import is_sharded
from roam.optim.fold import FoldRule, Group
from roam.optim.group_rules import GroupRules
from roam.optim.groups import Members
from roam.optim.handle import OptimizerHandle
from roam.optim.hooks import Hooks
from roam.optim.state_dicts import copied_attributes


class OwningOptimizer(Optimizer):
    """A torch.optim.Optimizer whose parameters have hooks, which pass their gradients to it.

    The user may edit `param_groups`, and add and remove parameters. `look_at_groups` detects such
    edits, claims the new parameters (becomes the one optimizer that folds their gradients), and
    removes the hooks of parameters that left. `hook_up` and `add_param_group` add the hooks of new
    parameters, and so does the step() of `FoldingOptimizer`.

    Attributes:
        rule: the class of the rule by which gradients are folded, in groups that name no other.
    """

    rule: ClassVar[type[FoldRule]]

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._rules = GroupRules(self.rule, defaults)
        self._hooks = Hooks(self)
        self._members = Members()
        self._lost: set[Tensor] = set()  # parameters in the groups that a newer optimizer claimed
        super().__init__(params, defaults)

    def absorb(self, param: Tensor, grad: Tensor) -> None:
        """Folds a parameter's complete gradient of one micro-batch. Subclasses define how."""
        raise NotImplementedError

    def waits(self, param: Tensor) -> bool:
        """Returns whether a parameter's gradient must stay in `.grad`, and may not be folded yet.

        For example, another backward may be about to add to the gradient.
        """
        raise NotImplementedError

    def asked_for_gradient(self, param: Tensor | None) -> None:
        """Called when the user's code finds no gradient to clip or to measure. Does nothing here.

        `param` is the parameter without a gradient; None if the parameter is unknown.
        """

    def holds(self, param: Tensor) -> bool:
        """Returns whether this optimizer folds the parameter's gradient."""
        return param in self._members.places and param not in self._lost

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, parameter) for all parameters whose gradients this optimizer folds."""
        return ((self._members.name(p), p) for p in self._members if p not in self._lost)

    @property
    def leaves_unfolded(self) -> bool:
        """Whether any group says `"unfolded": True`: no graph folds gradients of its parameters."""
        return any(group.get("unfolded") for group in self.param_groups)

    def unfolded(self, param: Tensor) -> bool:
        """Returns whether the parameter's group says `"unfolded": True`.

        If so, no compiled graph folds the parameter's gradient: the parameter's hook folds it.
        """
        place = self._members.places.get(param)
        return place is not None and bool(place.group.get("unfolded"))

    def hook_up(self) -> None:
        """Adds hooks to parameters that have none because they are new, or were frozen before."""
        self._hooks.add_missing()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._rules.fill(param_group)
        self._check(param_group)
        super().add_param_group(param_group)
        self.look_at_groups()
        self._hooks.add_missing()

    def admit(self, param: Tensor, name: str | None) -> None:
        """Called for each parameter that is new in the groups. Accepts all parameters here.

        A subclass that overrides this method may raise HyperparameterError to refuse a parameter.
        `name` is the name that the user gave the parameter; None without one.
        """

    def accept(self, rule: FoldRule) -> None:
        """Called for each new rule of a group. Accepts all rules here.

        A subclass that overrides this method may raise HyperparameterError to refuse a rule.
        """

    def facts(self, param: Tensor) -> tuple[Any, ...]:
        """Returns the values of the fields `of_parameter` of the parameter's rule, in their order.

        These fields of a rule differ between the parameters of a group. Returns () if the rule has
        no such fields, or if they have their default values.
        """
        return ()

    def rule_of(self, param: Tensor) -> FoldRule:
        """Returns the parameter's rule, with the values that its group has now.

        Raises:
            HyperparameterError: a value is out of its range or has a wrong type, the group names a
                rule that it may not have, or the optimizer cannot follow the rule.
            KeyError: the parameter is in no group.
        """
        return self._rule(self._members.places[param].group, self.facts(param))

    def look_at_groups(self) -> None:
        """Claims the parameters that are new in `param_groups`, and gives up those that left them.

        To claim a parameter is to become the one optimizer that folds its gradients. Does nothing
        if the groups have the same parameters as before.

        Raises:
            HyperparameterError: a value of a group is out of its range or has a wrong type, a group
                names a rule that it may not have, a parameter is in two groups, or a new parameter
                does not fit its rule.
        """
        before = self._members
        if before.are_in(self.param_groups):
            return
        self._rules.forget()
        for group in self.param_groups:
            self._rules.fill(group)
            self._check(group)
        now = Members(self.param_groups)
        new = [param for param in now if param not in before.places]
        for param in new:
            self.admit(param, now.given_name(param))
            self._check_fits(now.name(param), param, now.places[param].group)
        self._members = now
        for param in before:
            if param not in now.places:
                self._lost.discard(param)
                self._hooks.let_go(param)
        for param in new:
            self._hooks.claim(param)

    def _check(self, group: dict[str, Any]) -> None:
        if not isinstance(unfolded := group.get("unfolded", False), bool):
            raise HyperparameterError(f"unfolded={unfolded!r}: True or False, for the whole group")
        self._rule(group)

    def _rule(self, group: dict[str, Any], facts: tuple[Any, ...] = ()) -> FoldRule:
        """Returns the rule of those parameters of a group for which `self.facts` returns `facts`.

        `facts` are values of the rule that differ between the parameters of a group.

        Raises:
            HyperparameterError: a value is out of its range or has a wrong type, the group names a
                rule that it may not have, or the optimizer cannot follow the rule. The message
                names the group.
        """
        try:
            return self._rules.of(group, self.accept, facts)
        except HyperparameterError as error:
            raise HyperparameterError(f"{self._group_name(group)}: {error}") from None
        except TypeError as error:  # a check compared a value of a wrong type, such as a tuple
            raise HyperparameterError(f"{self._group_name(group)}, a value: {error}") from error

    def _group_name(self, group: Group) -> str:
        known = [i for i, g in enumerate(self.param_groups) if g is group]
        return f"group {known[0] if known else len(self.param_groups)}"

    def _check_fits(self, name: str, param: Tensor, group: dict[str, Any]) -> None:
        rule = self._rule(group, self.facts(param))
        if not rule.elementwise and (param.is_complex() or is_sharded(param)):
            what = "complex" if param.is_complex() else "in parts on several ranks (DTensor)"
            raise HyperparameterError(
                f"{name} is {what}, and {type(rule).__name__} needs it whole and real: put it into "
                'a group with "rule": "AdamW"'
            )
        try:
            rule.state(param)
        except HyperparameterError as error:
            raise HyperparameterError(f"{name}: {error}") from None

    def _own_again(self) -> None:
        """Makes this optimizer, a new copy, the owner of its parameters, and adds hooks."""
        self._rules = GroupRules(self.rule, self.defaults)
        self._hooks = Hooks(self)
        for param in self._members:
            if param not in self._lost:
                self._hooks.claim(param)
        self._hooks.add_missing()

    def lose(self, param: Tensor) -> None:
        """Stops folding a parameter's gradients, because a newer optimizer has claimed it.

        From then on, step() of this optimizer raises LostParameterError.
        """
        self._lost.add(param)
        self._hooks.remove(param)

    @property
    def handle(self) -> OptimizerHandle:
        """The handle (weak reference) that replaces the optimizer in options of `torch.compile`.

        A wrapper of the optimizer, such as Lightning's, has the handle of the optimizer itself.
        """
        itself: Any = self._hooks.optimizer()
        return OptimizerHandle(itself)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self | OptimizerHandle:
        """Returns a copy for the copied parameters, if the model was copied before the optimizer.

        So `copy.deepcopy((model, optimizer))` works as with torch.optim. If something is copied
        that contains the optimizer but not the model, such as the options of `torch.compile`,
        returns the handle of this optimizer (a weak reference).

        Raises:
            OptimizerCopyError: the optimizer is copied alone; such a copy would train nothing.
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
