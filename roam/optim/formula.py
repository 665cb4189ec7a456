"""Defines a formula: what a rule does with one gradient, as operators that a graph can contain.

    fold by Python    roam::fold ──► optimizer ──► rule.update(state, param, grad, step)

    fold in a graph   numbers of this step ──┐
                      param, grad, state ────┴──► operators of `change` ──► param, state

A graph is captured once and runs in every step. So whatever changes from step to step, such as a
learning rate or a bias correction, must not be a constant in it: it is a number that the graph
reads from a tensor. Python computes these numbers before the graph runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

# a function of (param, grad, *states, numbers) that changes param and states in place
Change = Callable[..., None]


class Formula(NamedTuple):
    """What a rule does with the gradient of one parameter in one step.

    Attributes:
        change: changes the parameter and the states in place, given the parameter, its gradient,
            the states in the order of `states`, and the numbers as a tensor of dimension 1. It
            calls nothing but operators, and reads no value of a tensor into Python. It compares
            equal in all steps, and is hashable, because compiled graphs are found by it: a
            function of a module, or a frozen dataclass.
        states: names of the state tensors.
        numbers: the numbers of this step, such as the learning rate.
    """

    change: Change
    states: tuple[str, ...]
    numbers: tuple[float, ...]


class BoundFormula(NamedTuple):
    """A formula with the tensors that it changes.

    Attributes:
        change: changes the parameter and the states in place. It is called with the parameter, the
            gradient, the states, and the numbers as a tensor.
        numbers: the numbers of this step, such as the learning rate.
        param: the parameter.
        names: the names of the states.
        states: the state tensors, in the order of `names`.
    """

    change: Change
    numbers: tuple[float, ...]
    param: Tensor
    names: tuple[str, ...]
    states: tuple[Tensor, ...]

    @property
    def kind(self) -> object:
        """A key of all that a graph with this formula depends on: operators, layouts of tensors."""
        return self.change, len(self.numbers), tuple(map(_layout, (self.param, *self.states)))


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def add_in_graph(p: Tensor, g: Tensor, sum_: Tensor, numbers: Tensor) -> None:
    """Decays a sum of gradients, and adds a gradient to it, in place.

    numbers: the factors on the sum and on the gradient.
    """
    decay, share = numbers.unbind()
    sum_.mul_(decay).add_(g * share)
