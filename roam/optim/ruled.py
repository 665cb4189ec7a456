"""Defines an optimizer that takes its arguments, checks and memory needs from its rule."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from roam.core.errors import HyperparameterError
from roam.core.folds import FoldNeeds, RowFolds
from roam.core.machine import Bytes
from roam.core.offload_to import OffloadTo
from roam.optim import refusals
from roam.optim.changed_values import footprint, lacking
from roam.optim.data_parallel import is_sharded
from roam.optim.fold import GRAD_NORM, STEP, AccumulatingRule, FoldRule, Group, StateSpec
from roam.optim.group_rules import named
from roam.optim.hooks import begin_epoch
from roam.optim.max_norm import MaxNorm
from roam.optim.ranks import Alone, Ranks
from roam.optim.scratch import scratch
from roam.optim.states import StatefulOptimizer

Mode = Literal["release", "accumulate"]
# bytes of the gradient that a block of rows has; matrix products of smaller blocks are slow
ROWS_AT_ONCE: Bytes = 16 << 20


class RuledOptimizer(StatefulOptimizer):
    """An optimizer whose constructor takes the values of its rule, such as lr and betas.

    It also takes the arguments that all these optimizers have: `mode`, `micro_batches`, `max_norm`,
    `clip_by` and `process_group`.

    Attributes:
        ranks: the ranks of `process_group`, which train one model; `Alone` without a group.
    """

    def __init_subclass__(cls, **how: Any) -> None:
        """If the class has a rule of its own, sets the constructor's signature by it.

        Param groups of other optimizers may then name the rule by the name of this class, unless
        the rule has fields that differ between a group's parameters (`FoldRule.of_parameter`).
        """
        super().__init_subclass__(**how)
        if "rule" in vars(cls):
            named[cls.__name__] = cls.rule
            cls.__signature__ = signature(cls.rule)  # type: ignore[attr-defined]

    def __init__(self, params: ParamsT, *args: Any, **values: Any) -> None:
        given = signature(self.rule).bind(params, *args, **values)
        given.apply_defaults()
        defaults = dict(given.arguments)
        mode, micro_batches = defaults.pop("mode"), defaults.pop("micro_batches")
        params, group = defaults.pop("params"), defaults.pop("process_group")
        if mode not in get_args(Mode):
            raise HyperparameterError(f"mode={mode!r}: there are {get_args(Mode)}")
        if group is not None and mode != "accumulate":
            raise refusals.ranks_release()
        self._mode: Mode = mode
        self.ranks: Alone | Ranks = Alone() if group is None else Ranks(group)
        self._clipping = MaxNorm(defaults.pop("max_norm"), defaults.pop("clip_by"))
        # id of a group -> (the group, the rule that its states were made for)
        self._followed: dict[int, tuple[Group, FoldRule]] = {}
        # whether a rule was made since the states were last fitted to the rules
        self._may_differ = False
        self.micro_batches = micro_batches
        super().__init__(params, defaults)
        self.ranks.check_alike(self.named())

    @property
    def mode(self) -> Mode:
        """The mode, which says when a parameter is updated:

        "release"      as soon as its gradient is complete
        "accumulate"   in step(), by all gradients that were folded in the mini-batch
        """
        return self._mode

    @property
    def max_norm(self) -> float | None:
        """The limit on the norm of gradients, or of momentum if the mode is "accumulate".

        None for no limit.

        Raises:
            HyperparameterError: it is set, and is not positive, or the mode is "accumulate" and a
                rule has no momentum.
            MidBatchError: it is set, and gradients were folded since the last step().
        """
        return self._clipping.limit

    @max_norm.setter
    def max_norm(self, limit: float | None) -> None:
        self._between_batches("changing max_norm")
        clipping = MaxNorm(limit, self._clipping.by)
        for group in self.param_groups:
            self._refuse_unclipped(self._rule(group), clipping)
        self._clipping = clipping
        for state in self.state.values() if limit is None else ():
            state.pop(GRAD_NORM, None)
        self._followed.clear()  # parameters of all groups may need other states now
        self.look_at_groups()

    @property
    def micro_batches(self) -> int:
        """The number of backwards in a mini-batch; 1 in mode "release".

        Raises:
            HyperparameterError: it is set, and is no whole number of at least 1, or is not 1 in
                mode "release".
            MidBatchError: it is set, and gradients were folded since the last step().
        """
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
        """Whether absorbing a gradient also updates the parameter, as in mode "release"."""
        return self.mode == "release"

    def scratch(self, param: Tensor, grad: Tensor) -> int:
        """Returns the most bytes that absorbing a parameter's gradient allocates at a time.

        Counts the clipped copy of the gradient, but no states. The tensors may be fake.
        """
        rule, releases = self.rule_of(param), self.writes_parameters
        copy = grad.numel() * grad.itemsize if releases and self.max_norm else 0
        return scratch(rule, param, grad, releases=releases) + copy

    def states_of(self, param: Tensor) -> tuple[StateSpec, ...]:
        return super().states_of(param) + self._clipping.states(self.writes_parameters)

    def accept(self, rule: FoldRule) -> None:
        if self.mode == "accumulate" and rule.release_only:
            raise refusals.release_only(type(rule).__name__, rule.release_only)
        self._refuse_unclipped(rule, self._clipping)
        combines = isinstance(rule, AccumulatingRule) and rule.over_ranks
        if isinstance(self.ranks, Ranks) and not combines:
            raise refusals.alone(type(rule).__name__)
        self._may_differ = True

    def _refuse_unclipped(self, rule: FoldRule, clipping: MaxNorm) -> None:
        """Raises HyperparameterError if max_norm has no momentum to limit, in mode "accumulate"."""
        clips = self.mode == "accumulate" and clipping.limit is not None
        if clips and not (isinstance(rule, AccumulatingRule) and rule.has_momentum):
            raise refusals.unclipped(type(rule).__name__)

    def look_at_groups(self) -> None:
        """Claims parameters that are new in `param_groups`, and gives up those that left them.

        If values of a group have changed, fits its parameters' states to them (`_fit_states`).

        Raises:
            HyperparameterError: a value is out of its range, or would give states another shape or
                dtype; a parameter is in two groups, or a new one does not fit its rule.
            MidBatchError: in mode "accumulate", states would have to change, although gradients
                are folded into them.
        """
        super().look_at_groups()
        followed: dict[int, tuple[Group, FoldRule]] = {}
        for group in self.param_groups:
            rule, (_, before) = self._rule(group), self._followed.get(id(group), (group, None))
            if before is None or (before is not rule and footprint(before) != footprint(rule)):
                self._fit_states(group, before)
            followed[id(group)] = group, rule
        self._followed, self._may_differ = followed, False

    def _fit_states(self, group: dict[str, Any], before: FoldRule | None) -> None:
        """Fits the states of a group's parameters to the values of the group.

        A parameter that lacks a state, or has a rule of another class now, loses all its states:
        its next gradient counts as its first. If the parameter lacks only the norm of its last
        gradient (GRAD_NORM), it gets a norm of 0 and keeps its other states. States that are no
        longer needed are dropped.

        Args:
            group: the group.
            before: the rule that the states were made for; None if unknown: then unneeded states
                stay.

        Raises:
            HyperparameterError: a state would get another shape or dtype, or a parameter does not
                fit its rule.
            MidBatchError: in mode "accumulate", states would have to change, although gradients
                are folded into them.
        """
        anew = before is not None and self._rules.kind(group) is not type(before)
        # (parameter, names of its missing states, names of the states that it no longer needs)
        changes: list[tuple[Tensor, set[str], set[str]]] = []
        for param in group["params"]:
            name = self._members.name(param)
            self._check_fits(name, param, group)
            if not (state := self.state.get(param)):
                continue
            specs = self.states_of(param)
            try:
                more = {STEP.name} if anew else lacking(state, specs)
            except HyperparameterError as error:
                raise refusals.other_states(f"{self._group_name(group)}, {name}", error) from None
            had = () if before is None else self._rules.like(before, self.facts(param)).state(param)
            less = {spec.name for spec in had} - {spec.name for spec in specs}
            if more or less:
                changes.append((param, more, less))
        if changes and not self.writes_parameters:
            self._between_batches(f"changing values of {self._group_name(group)} and so its states")
        for param, more, less in changes:
            state = self.state[param]
            if more - {GRAD_NORM}:
                state.clear()  # the next gradient is the parameter's first
            for name in less & state.keys():
                del state[name]
            if state and more:
                state[GRAD_NORM] = torch.zeros((), dtype=torch.float32, device=param.device)
        begin_epoch()  # what `needs` told plans earlier is obsolete

    def needs(self, param: Tensor, grad: Tensor, to: OffloadTo | None = None) -> FoldNeeds:
        """Returns the states, the scratch space and the row blocks of a fold, for memory plans.

        Args:
            param, grad: the parameter and the gradient; both may be fake.
            to: the folder in which the states are assumed to be; None for where they are now.
        """
        specs = [(spec, self._stored.stored(param, spec, to)) for spec in self.spec(param)]
        here = tuple((spec.name, spec.bytes) for spec, stored in specs if stored is None)
        stored = tuple(found for _, found in specs if found is not None)
        # states in a file are loaded whole, so the gradient is not folded by rows
        by_rows = None if stored else self._row_folds(param, grad)
        return FoldNeeds(here, self.scratch(param, grad), self.writes_parameters, stored, by_rows)

    def works_by_rows(self, param: Tensor) -> bool:
        """Returns whether rows of a parameter's gradient can be absorbed one after another."""
        clips = self.writes_parameters and self.max_norm is not None
        return not clips and not is_sharded(param) and self.rule_of(param).by_rows(param)

    def _row_folds(self, param: Tensor, grad: Tensor) -> RowFolds | None:
        """Returns the blocks of rows by which a gradient may be folded; None if it is folded whole.

        A gradient is folded whole if it is too small for two blocks, or if rows cannot be absorbed
        one after another (`works_by_rows`).
        """
        rule, releases = self.rule_of(param), self.writes_parameters
        size = grad.numel() * grad.itemsize
        if size < 2 * ROWS_AT_ONCE or not self.works_by_rows(param):
            return None
        rows = max(1, len(param) * ROWS_AT_ONCE // size)
        if rows == len(param):
            return None
        return RowFolds(rows, scratch(rule, param[:rows], grad[:rows], releases=releases))

    def _used(self, group: Group) -> tuple[str, ...]:
        """Returns the names of the group's values that the backward uses, such as "betas"."""
        return self._rules.names(group) if self.writes_parameters else self._rules.folds_with(group)

    def _own_again(self) -> None:
        self._followed = {}  # a copy has groups of its own
        super()._own_again()

    def _between_batches(self, what: str) -> None:
        """Raises MidBatchError if gradients were folded since the last `step()`.

        what: the caller's action, for the message, such as "changing max_norm".
        """
        raise NotImplementedError


def signature(rule: type[FoldRule]) -> inspect.Signature:
    """Returns the signature of the constructor of an optimizer with this rule.

    The arguments are the parameters to train, the values of the rule, and the keyword arguments
    that every optimizer has.
    """
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
