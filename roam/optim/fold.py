"""Defines a fold rule: how an optimizer absorbs one gradient, which may then be freed.

    micro-batch        1                2                          N
    gradient     made, folded     made, folded       ...     made, folded
                      |                |                          |
    state    decay + look + fold     fold            ...        fold  ──►  apply (to the parameter)

    release (N = 1): update, all of it at once, as soon as the gradient is complete

A rule is a frozen dataclass. Its fields are the values of a group (lr, betas, ...). Only the fields
in `of_parameter` differ between the parameters of a group. If a value of the group changes, the
group gets another rule. A `FoldRule` updates the parameter at once; an `AccumulatingRule` can also
fold the gradients of several micro-batches one by one.

FoldingOptimizer provides all else: constructors, hooks, graphs, the count of micro-batches, state
dicts, states in files, plans, and the bytes that an update allocates (`scratch` measures them).
An optimizer is a rule of about a page and a FoldingOptimizer that names it:

    @dataclass(frozen=True)
    class SignRule(AccumulatingRule):
        lr: float | Tensor = 1e-3

        def state(self, param):
            return (StateSpec.like("sum", param),)

        def decay(self, state, param, step):
            state["sum"].zero_()

        def fold(self, state, param, grad, at):
            state["sum"].add_(grad, alpha=at.scale)

        def apply(self, state, param, step):
            for p, s in blocks(param, state["sum"]):
                p.add_(s.sign(), alpha=-float(self.lr))

    class Sign(FoldingOptimizer):
        rule = SignRule
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from roam.core.errors import HyperparameterError
from roam.optim.formula import Formula

State = Mapping[str, Tensor]  # a parameter's state tensors, by StateSpec.name
OverRanks = Literal["mean", "squares"]  # how ranks combine a state: a mean, or a sum of squares
Group = Mapping[str, Any]  # a parameter's group (lr, betas, ...); the values may change


@dataclass(frozen=True)
class StateSpec:
    """Describes one tensor of the optimizer state of one parameter.

    Attributes:
        name: its key in the parameter's state.
        shape: its shape: the parameter's shape if each element has a value of its own; size 1 in
            the dimensions along which elements share a value; () for a single value.
        dtype: its dtype.
        start: the value of all its elements before the first gradient.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: float = 0.0

    @staticmethod
    def like(name: str, param: Tensor, dtype: torch.dtype | None = None) -> StateSpec:
        """Returns the spec of a state with a value for each element of the parameter.

        dtype: the dtype of the state; the parameter's if left out.
        """
        return StateSpec(name, tuple(param.shape), dtype or param.dtype)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def make(self, param: Tensor) -> Tensor:
        """Returns a new state tensor with the value `start`, on the parameter's device.

        A state tensor of the parameter's shape gets the parameter's strides, without gaps.
        """
        if self.shape == tuple(param.shape):
            made = torch.zeros_like(param, dtype=self.dtype, memory_format=torch.preserve_format)
        else:
            made = torch.zeros(self.shape, dtype=self.dtype, device=param.device)
        return made.fill_(self.start) if self.start else made


STEP = StateSpec("step", (), torch.float32)  # a tensor on the CPU that counts a parameter's updates
GRAD_NORM = "grad_norm"  # state: the norm of a parameter's last gradient, for `max_norm`
# by name of a method that returns a formula, the methods whose work the formula does in a graph
FORMULAS = {
    "update_in_graph": ("update", "decay", "look", "fold", "apply"),
    "fold_in_graph": ("decay", "look", "fold"),
}
OF_OPTIMIZER = frozenset({STEP.name, GRAD_NORM})  # states that the optimizer adds to the rule's


class Turn(NamedTuple):
    """Tells when a gradient is folded.

    Attributes:
        step: the number of the parameter's update that the gradient is for, from 1.
        micro_batch: the number of the gradient in its mini-batch, from 0.
        scale: 1 / N, if the mini-batch has N micro-batches; 1 if the gradient is already the mean
            of a whole mini-batch.
    """

    step: int
    micro_batch: int
    scale: float

    def once(self, factor: float) -> float:
        """Returns `factor` for the first micro-batch of a mini-batch, and 1 for the others."""
        return factor if self.micro_batch == 0 else 1.0


class Update(NamedTuple):
    """The arguments of one parameter's `FoldRule.update`."""

    state: State
    param: Tensor
    grad: Tensor
    step: int


@dataclass(frozen=True)
class FoldRule(ABC):
    """A rule by which an optimizer absorbs one gradient. Its fields are the values of a group.

    The methods change tensors in place and are called under `torch.no_grad()`. They must not turn
    values of parameters, gradients or states into Python numbers (`.item()`): plans run the methods
    on tensors without values. A learning rate that is a tensor may be turned into a number.

    Attributes:
        of_parameter: names of the fields that differ between the parameters of a group. The
            optimizer's `facts` returns their values for one parameter. These fields have defaults.
        folds_with: names of the values that `decay`, `look` and `fold` read. So the backward reads
            no others in mode "accumulate". `update` and `apply` may read all values.
    """

    of_parameter: ClassVar[tuple[str, ...]] = ()
    folds_with: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **how: Any) -> None:
        """Makes an inherited `update_in_graph` or `fold_in_graph` return None if it no longer fits.

        That is so if the class overrides a method whose work the formula does (FORMULAS).
        """
        super().__init_subclass__(**how)
        for formula, methods in FORMULAS.items():
            own = vars(cls)
            if formula not in own and any(method in own for method in methods):
                setattr(cls, formula, lambda self, param, when: None)

    def __post_init__(self) -> None:  # noqa: B027 (a rule without values has none to check)
        """Raises HyperparameterError if a value is out of its range."""

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Returns, by name, the values that a group has if the user gives none."""
        return dict(_defaults(cls))

    @property
    def elementwise(self) -> bool:
        """Whether the update of an element depends only on this element of the tensors.

        Only such a rule can update complex parameters (as real views of shape `[..., 2]`) and
        parameters in parts on several ranks (DTensor). AdamA without 8-bit states counts as such,
        even with `update_clip`, which needs a mean over all elements; `by_rows` is False then.
        """
        return False

    def by_rows(self, param: Tensor) -> bool:
        """Returns whether the rule can update each row of a parameter as a parameter of its own.

        A row is a slice of dimension 0. Its states are those that `states_of_rows` returns.
        """
        return self.elementwise

    def states_of_rows(self, state: State, rows: slice) -> State:
        """Returns the parts of a parameter's state tensors that belong to some rows.

        States that the optimizer adds, such as the step count, are returned whole.
        """
        return {name: t if name in OF_OPTIMIZER else t[rows] for name, t in state.items()}

    @property
    @abstractmethod
    def release_only(self) -> str:
        """Why this rule, with its values, cannot fold micro-batches one by one; empty if it can."""

    @abstractmethod
    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        """Returns the specs of the state tensors that a parameter needs, without "step".

        Must look only at shape, strides and dtype of `param`, which may be a fake or meta tensor.

        Raises:
            HyperparameterError: the rule cannot update a parameter of this shape.
        """

    @abstractmethod
    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        """Updates a parameter by the whole gradient of a mini-batch.

        Must bump the parameter's version counter, as torch's in-place operators do, so that
        autograd detects an op that reads the parameter afterwards but needs the old value.

        Args:
            state: the parameter's state, and "step", the tensor that counts its updates.
            param: the parameter.
            grad: the gradient. Must not be changed. Its strides may not be the parameter's.
            step: the number of this update, from 1.
        """

    def update_in_graph(self, param: Tensor, step: int) -> Formula | None:
        """Returns `update` as operators of a graph; None if it can only be carried out by Python.

        In a subclass that overrides `update`, `decay`, `look`, `fold` or `apply`, returns None
        unless the subclass overrides this method, too.

        Args:
            param: the parameter. Only its shape and dtype may be read.
            step: the number of the update, from 1.
        """
        return None

    def release(self, updates: Sequence[Update]) -> None:
        """Updates several parameters that have this rule, each as `update` does."""
        for state, param, grad, step in updates:
            self.update(state, param, grad, step)

    def _require(self, **good: bool) -> None:
        """Raises HyperparameterError for the first field, if any, whose argument is False."""
        for name, is_good in good.items():
            if not is_good:
                raise HyperparameterError(f"{name}={getattr(self, name)} is out of its range")


@dataclass(frozen=True)
class AccumulatingRule(FoldRule):
    """A rule that can fold N micro-batches' gradients one by one, unless `release_only` says no.

    Attributes:
        has_momentum: whether the rule has `squared_momentum` and `shortened`, for `max_norm` in
            mode "accumulate".
    """

    has_momentum: ClassVar[bool] = False

    @property
    def applied(self) -> frozenset[str]:
        """The names of the state tensors that `apply` changes: those in a file are written back."""
        return frozenset()

    @property
    def over_ranks(self) -> dict[str, OverRanks]:
        """By name of each state tensor that folds change, how several ranks combine it.

        Empty if the rule cannot train on several ranks.
        """
        return {}

    def multiply(self, state: State, name: str, factor: float) -> None:
        """Multiplies, in place, the numbers of a state tensor that ranks combine (`over_ranks`)."""
        state[name].mul_(factor)

    def decoded(self, state: State, name: str) -> Tensor:
        """Returns a state tensor that ranks combine (`over_ranks`) as numbers that can be added.

        If the tensor holds codes, returns a new tensor, which `encode` stores again.
        """
        return state[name]

    def encode(self, state: State, name: str, numbers: Tensor, step: int) -> None:
        """Stores in the state the numbers that `decoded` returned and the ranks have combined.

        Every rank must store the same codes. May overwrite `numbers`. If the state tensor holds no
        codes, `numbers` is the state tensor itself, and nothing is left to store.

        step: the number of the update, from 1.
        """

    def squared_momentum(self, state: State, step: int) -> Tensor:
        """Returns the squared norm of the running mean of gradients, bias corrected, a scalar.

        step: the number of the update that is to come, from 1.
        """
        raise NotImplementedError

    def shortened(self, factor: float) -> AccumulatingRule:
        """Returns a rule whose `apply` moves the parameter `factor` times as far by the momentum.

        A decoupled weight decay stays the same. `factor` is between 0 and 1.
        """
        raise NotImplementedError

    @property
    def release_only(self) -> str:
        return ""

    @abstractmethod
    def decay(self, state: State, param: Tensor, step: int) -> None:
        """Decays the state at the start of a mini-batch, before the first fold."""

    def look(self, state: State, param: Tensor, grad: Tensor, step: int) -> tuple[str, ...]:
        """Looks at the first gradient of a mini-batch, after `decay` and before its fold.

        Returns:
            The names of the state tensors that it sets. Several ranks all take these from rank 0.
        """
        return ()

    @abstractmethod
    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        """Adds the gradient of one micro-batch, times `at.scale`, to the state.

        Sums of squares may take another factor, such as `at.scale` squared in AdamA.
        """

    def fold_in_graph(self, param: Tensor, at: Turn) -> Formula | None:
        """Returns `fold`, and for the first micro-batch `decay` before it, as operators of a graph.

        Returns None if they can only be carried out by Python, as by a rule that has `look`, which
        no graph calls. In a subclass that overrides `decay`, `look` or `fold`, returns None unless
        the subclass overrides this method, too.
        """
        return None

    @abstractmethod
    def apply(self, state: State, param: Tensor, step: int) -> None:
        """Updates the parameter by its state, after all gradients of the mini-batch are folded."""

    def update(self, state: State, param: Tensor, grad: Tensor, step: int) -> None:
        self.decay(state, param, step)
        self.look(state, param, grad, step)
        self.fold(state, param, grad, Turn(step, 0, 1.0))
        self.apply(state, param, step)


@cache
def _defaults(rule: type[FoldRule]) -> tuple[tuple[str, Any], ...]:
    return tuple((f.name, f.default) for f in fields(rule) if f.name not in rule.of_parameter)


def are_rates(betas: Sequence[float], count: int = 2) -> bool:
    """Returns whether there are `count` betas, all from 0 to below 1."""
    return len(betas) == count and all(0 <= beta < 1 for beta in betas)
