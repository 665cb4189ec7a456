"""Checks and adapts loaded state dicts, and selects the attributes of a copied optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, StateDict

from roam.core.errors import StateMismatchError
from roam.optim.fold import GRAD_NORM, STEP, StateSpec

StateOf = defaultdict[Tensor, dict[str, Any]]
# attributes of an optimizer that a copy does not get. `step` is an attribute of the optimizer, and
# not only of its class, if a scheduler has wrapped it
NOT_COPIED = frozenset({"more_to_come", "_hooks", "_rules", "step"})
# options of torch.optim's optimizers (AdamW, SGD, ...) that no fold rule has
REFUSED = ("amsgrad", "maximize")


def check_fits(state_dict: StateDict, wanted: Iterable[tuple[str, tuple[StateSpec, ...]]]) -> None:
    """Raises StateMismatchError if a state dict does not fit the parameters.

    It does not fit if a state tensor is missing or has another shape, or if it is of an optimizer
    with amsgrad=True or maximize=True. A parameter without any state in it fits, and begins anew.

    Args:
        state_dict: the state dict.
        wanted: the name of each parameter and the specs of the states that it needs, in the order
            of the groups.
    """
    groups = state_dict["param_groups"]
    for option in REFUSED:
        if any(group.get(option) for group in groups):
            raise StateMismatchError(f"the state is of an optimizer with {option}=True")
    ids = dict.fromkeys(i for group in groups for i in group["params"])
    for i, (name, specs) in zip(ids, wanted, strict=False):  # torch checks that lengths are equal
        state = state_dict["state"].get(i)
        for spec in specs if state else ():
            found = tuple(torch.as_tensor(state[spec.name]).shape) if spec.name in state else None
            if found != spec.shape:
                raise StateMismatchError(
                    f"{name} needs {spec.name} of shape {list(spec.shape)}, and the state dict has "
                    f"{'none' if found is None else list(found)}"
                )


def of_members(state: StateOf, members: Container[Tensor]) -> StateOf:
    """Returns an optimizer's state without that of parameters which are not in `members`.

    torch keeps the state of a parameter that has left the groups, but Optimizer.state_dict fails on
    such a state.
    """
    return defaultdict(dict, {p: tensors for p, tensors in state.items() if p in members})


def saved_states(state_dict: StateDict, params: Iterable[Tensor]) -> dict[Tensor, dict[str, Any]]:
    """Returns the states in a state dict by parameter; {} for a parameter that has none there.

    Args:
        state_dict: the state dict.
        params: the parameters, in the order of the groups.
    """
    ids = dict.fromkeys(i for group in state_dict["param_groups"] for i in group["params"])
    return {p: state_dict["state"].get(i, {}) for i, p in zip(ids, params, strict=True)}


def fit_loaded(
    param: Tensor,
    state: MutableMapping[str, Any],
    saved: Mapping[str, Any],
    specs: Sequence[StateSpec],
) -> None:
    """Gives loaded states the strides and dtypes of `specs`, and moves the step count to the CPU.

    A tensor whose dtype torch has changed is copied from `saved`, because the change lost digits.
    A missing step count becomes 1, and a missing norm of the last gradient 0.

    Args:
        param: the parameter.
        state: the parameter's states, which torch has cast to the parameter's dtype. Changed in
            place.
        saved: the parameter's states as they were saved.
        specs: the specs that the states must fit.
    """
    # some of torch's optimizers count no updates; a parameter with a state had at least one
    step = torch.as_tensor(state.get("step", 1.0))
    state["step"] = step.to("cpu", STEP.dtype, copy=True)
    for spec in specs:
        if spec.name == GRAD_NORM:
            state.setdefault(
                GRAD_NORM, spec.make(param)
            )  # an optimizer without max_norm saved no norm
        made, found = spec.make(param.detach().to("meta")), state[spec.name]
        if made.dtype != found.dtype:
            state[spec.name] = spec.make(param).copy_(saved.get(spec.name, state[spec.name]))
        elif made.stride() != found.stride():
            state[spec.name] = spec.make(param).copy_(found)


def copied_attributes(optimizer: Optimizer) -> dict[str, Any]:
    """Returns, by name, the attributes of an optimizer that its copy gets.

    Leaves out the attributes in NOT_COPIED, such as the gradient hooks, and step hooks, which
    torch.optim does not copy either.
    """
    return {
        name: attribute
        for name, attribute in vars(optimizer).items()
        if name not in NOT_COPIED and not name.startswith("_optimizer_")
    }
