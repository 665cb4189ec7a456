"""Tells whether states still fit when values of their group change. `ruled` then changes states:

    momentum 0 -> 0.9     needs a state that is not there: the parameter begins anew, at step 0
    momentum 0.9 -> 0     drops the state
    rank 128 -> 64        refused: the state has another shape

Most changes, such as those of learning rates, need no other states: `footprint` stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from roam.core.errors import HyperparameterError
from roam.optim.fold import FoldRule, StateSpec

NUMBERS = ("lr", "betas", "eps")  # values of groups whose size decides on no state


def footprint(rule: FoldRule) -> tuple[Any, ...]:
    """Returns the rule's class, and of its values what states and scratch space may depend on.

    A float is represented by its type and by whether it is 0: a momentum of 0 has no state. A
    tensor, and a value of NUMBERS, is represented by its type.
    """
    return type(rule), *(_bytes_of(f.name, getattr(rule, f.name)) for f in fields(rule))


def _bytes_of(name: str, value: Any) -> Any:
    if name in NUMBERS or isinstance(value, Tensor):
        return type(value)
    return (type(value), bool(value)) if isinstance(value, float) else value


def lacking(state: Mapping[str, Any], specs: Sequence[StateSpec]) -> set[str]:
    """Returns the names of the states that a parameter needs and does not have.

    Args:
        state: the states that the parameter has.
        specs: those that it needs.

    Raises:
        HyperparameterError: a state would have another shape or dtype.
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
