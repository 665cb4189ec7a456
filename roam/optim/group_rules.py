"""Makes the rules of parameter groups from the values in them.

{"params": ..., "lr": 1e-3, ...}                       the optimizer's own rule
{"params": ..., "lr": 1e-3, ..., "rule": "AdamW"}      the rule of another optimizer
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import replace
from typing import Any

from roam.core.errors import HyperparameterError
from roam.optim.fold import FoldRule, Group

RULE = "rule"  # the key of a group's value that names another optimizer's rule
# values that a group takes from the constructor even if it names another optimizer's rule
SHARED = ("lr", "weight_decay")
named: dict[str, type[FoldRule]] = {}  # rules, by the name of their optimizer's class


class GroupRules:
    """The rules of an optimizer's groups, each made anew when a value changes.

    Args:
        own: the class of the rule of groups that name none.
        given: the values from the optimizer's constructor, by name.
    """

    def __init__(self, own: type[FoldRule], given: Group) -> None:
        self._own, self._given = own, dict(given)
        self._known: dict[tuple[int, Any], tuple[type[FoldRule], list[Any], FoldRule]] = {}

    def kind(self, group: Group) -> type[FoldRule]:
        """Returns the class of the group's rule.

        Raises:
            HyperparameterError: the group names an unknown rule, or another optimizer's rule with
                fields that differ between parameters, whose values only that optimizer knows.
        """
        if (name := group.get(RULE)) is None:
            return self._own
        found = named.get(name)
        if found is None or (found.of_parameter and found is not self._own):
            known = sorted(n for n, r in named.items() if not r.of_parameter)
            raise HyperparameterError(f"rule={name!r} of a group: it is one of {', '.join(known)}")
        return found

    def names(self, group: Group) -> tuple[str, ...]:
        """Returns the names of the values that the group's rule takes from a group, such as lr."""
        return tuple(self.kind(group).defaults())

    def folds_with(self, group: Group) -> tuple[str, ...]:
        """Returns the names of the group's values that the backward reads in mode "accumulate"."""
        return self.kind(group).folds_with

    def fill(self, group: MutableMapping[str, Any]) -> None:
        """Adds to a group the values that it lacks: the constructor's, or else its rule's defaults.

        If the group names another optimizer's rule, takes only lr and weight_decay (SHARED) from
        the constructor, and removes from the group the constructor's values that this rule lacks.

        Raises:
            HyperparameterError: the group names a rule that no group may have here (`kind`).
        """
        kind = self.kind(group)
        own = kind is self._own
        given = {n: v for n, v in self._given.items() if own or n in SHARED}
        for name, value in kind.defaults().items():
            group.setdefault(name, given.get(name, value))
        if not own:
            for name in self._given.keys() - kind.defaults().keys():
                group.pop(name, None)

    def of(
        self,
        group: MutableMapping[str, Any],
        accept: Callable[[FoldRule], None],
        facts: tuple[Any, ...] = (),
    ) -> FoldRule:
        """Returns the rule of a group's parameters: the same object until a value changes.

        Adds values that the group lacks.

        Args:
            group: the group.
            accept: called for a new rule; raises an error if the optimizer cannot follow the rule.
            facts: the values of the rule's fields that differ between the parameters of a group
                (`FoldRule.of_parameter`); empty for the defaults of these fields.

        Raises:
            HyperparameterError: a value is out of its range, the optimizer cannot follow the rule,
                or the group names a rule that no group may have here (`kind`).
        """
        kind = self.kind(group)
        try:
            values = [group[name] for name in kind.defaults()]
        except KeyError:  # the user has named another rule, or deleted a value
            self.fill(group)
            values = [group[name] for name in kind.defaults()]
        known = self._known.get((id(group), facts))
        if known is not None and known[0] is kind and known[1] == values:
            return known[2]
        rule = self.made(group, facts)
        accept(rule)
        self._known[id(group), facts] = kind, values, rule
        return rule

    def made(self, group: Group, facts: tuple[Any, ...] = ()) -> FoldRule:
        """Returns a new rule with the values of `group`, which need not be in the optimizer.

        Args:
            group: the values, by name. No value of the rule may be missing.
            facts: the values of the rule's fields that differ between the parameters of a group
                (`FoldRule.of_parameter`); empty for the defaults of these fields.

        Raises:
            HyperparameterError: a value is out of its range, or the group names a rule that no
                group may have here (`kind`).
        """
        kind = self.kind(group)
        values = {name: group[name] for name in kind.defaults()}
        return kind(**values, **dict(zip(kind.of_parameter, facts, strict=False)))

    def like(self, rule: FoldRule, facts: tuple[Any, ...]) -> FoldRule:
        """Returns a copy of `rule` for other parameters of its group.

        facts: the values of the rule's fields that differ between the parameters of a group
            (`FoldRule.of_parameter`); empty for the values in `rule`.
        """
        return replace(rule, **dict(zip(rule.of_parameter, facts, strict=False)))

    def forget(self) -> None:
        """Forgets all rules: they are found by a group's id(), which a new group may get, too."""
        self._known.clear()
