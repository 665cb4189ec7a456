"""Finds out whether states still fit after values of their group have changed.

If they do not, `ruled` changes the states, or refuses the values:

    momentum 0 -> 0.9     needs a state that is not there: the parameter begins anew, at step 0
    momentum 0.9 -> 0     drops the state
    rank 128 -> 64        refused: the state has another shape

Most changes, such as of a learning rate, need no other states: then the `footprint` of the group's
rule stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from roam.core.errors import HyperparameterError
from roam.optim.fold import FoldRule, StateSpec

# values of a group whose type, at most, decides which states a rule needs and what it allocates
NUMBERS = ("lr", "betas", "eps")


def footprint(rule: FoldRule) -> tuple[Any, ...]:
    """Returns all of a rule that may decide which states it needs, and which bytes it allocates.

    This is the rule's class, and something for each value of the rule: the type of a tensor, and of
    a value in NUMBERS (lr, betas, eps); the type of any other float, and whether it is 0, because a
    momentum of 0 has no state; and all other values themselves. So rules with equal footprints need
    the same states.
    """
    return type(rule), *(_bytes_of(f.name, getattr(rule, f.name)) for f in fields(rule))


def _bytes_of(name: str, value: Any) -> Any:
    if name in NUMBERS or isinstance(value, Tensor):
        return type(value)
    return (type(value), bool(value)) if isinstance(value, float) else value


def lacking(state: Mapping[str, Any], specs: Sequence[StateSpec]) -> set[str]:
    """Returns the names of the states that a parameter needs and does not have.

    Args:
        state: the states that the parameter has, by name.
        specs: describe the states that the parameter needs.

    Raises:
        HyperparameterError: a state that the parameter has needs another shape or dtype.
    """
    for spec in specs:
        found = state.get(spec.name)
        if found is not None and (tuple(found.shape), found.dtype) != (spec.shape, spec.dtype):
            raise HyperparameterError(
                f"{spec.name} is {_shown(found.shape, found.dtype)} and would have to be "
                f"{_shown(spec.shape, spec.dtype)}"
            )
    return {spec.name for spec in specs} - state.keys()


def _shown(shape: Sequence[int], dtype: Any) -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
