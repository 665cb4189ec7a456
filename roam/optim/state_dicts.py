"""Whether a state dict is of these parameters, and of an optimizer that keeps the same state."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim.optimizer import StateDict

from roam.core.errors import StateMismatchError
from roam.optim.fold import StateSpec

REFUSED = ("amsgrad", "maximize")  # what an AdamW may have done and no fold does


def check_fits(state_dict: StateDict, wanted: Iterable[tuple[str, tuple[StateSpec, ...]]]) -> None:
    """Raises StateMismatchError. wanted: name and state of each parameter, in order."""
    groups = state_dict["param_groups"]
    for option in REFUSED:
        if any(group.get(option) for group in groups):
            raise StateMismatchError(f"the state is of an optimizer with {option}=True")
    ids = dict.fromkeys(i for group in groups for i in group["params"])
    for i, (name, specs) in zip(ids, wanted, strict=False):  # torch compares the lengths
        state = state_dict["state"].get(i)
        for spec in specs if state else ():
            found = tuple(torch.as_tensor(state[spec.name]).shape) if spec.name in state else None
            if found != spec.shape:
                raise StateMismatchError(
                    f"{name} needs {spec.name} of shape {list(spec.shape)}, and the state dict has "
                    f"{'none' if found is None else list(found)}"
                )
