"""Makes the states of an optimizer, in memory or in a file, and saves and loads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, StateDict

from roam.core.offload_to import OffloadTo
from roam.optim.fold import STEP, StateSpec
from roam.optim.groups import Members
from roam.optim.hooks import begin_epoch
from roam.optim.ownership import OwningOptimizer
from roam.optim.state_dicts import check_fits, fit_loaded, of_members, saved_states
from roam.optim.stored_states import StoredStates, in_memory, is_stored
from roam.runtime import stored_ops as stored_ops  # registers the ops that load states
from roam.runtime.file_tier import file_tier
from roam.runtime.tickets import issue


class StatefulOptimizer(OwningOptimizer):
    """An optimizer whose large state tensors may lie in a file between steps."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._stored = StoredStates()
        super().__init__(params, defaults)

    def spec(self, param: Tensor) -> tuple[StateSpec, ...]:
        """Returns the specs of a parameter's state tensors and of its count of updates, "step".

        The state tensors need not be allocated yet.
        """
        return (*self.states_of(param), STEP)

    def states_of(self, param: Tensor) -> tuple[StateSpec, ...]:
        """Returns the specs of a parameter's state tensors, without its count of updates."""
        return self.rule_of(param).state(param)

    def state_of(self, param: Tensor) -> dict[str, Any]:
        """Returns the state tensors and the step count of a parameter, by name.

        The first call for a parameter allocates them.

        State tensors that lie in a file are `StoredTensor`s.

        Raises:
            TierFullError, TransferError: state tensors go to a file, and the disk is full, or
                fails.
        """
        state: dict[str, Any] = self.state[param]
        if not state:
            name, specs = self._members.name(param), self.states_of(param)
            state.update({s.name: self._stored.make(name, param, s) for s in specs})
            state["step"] = torch.zeros((), dtype=STEP.dtype)
        return state

    def ticket(self, param: Tensor, state: str) -> Tensor:
        """Returns a ticket for a state tensor that lies in a file.

        A ticket is a tensor of one number, by which ops of a graph refer to the state tensor
        (`roam.runtime.tickets`). `state` is the name of the state tensor, such as "exp_avg".
        """
        return issue(self.state_of(param)[state])

    def keep_states_in(self, to: OffloadTo | str) -> None:
        """Moves large state tensors to a file of a folder, and keeps them there between steps.

        States that are made later go there too. A second call with the same folder does nothing.
        The option `offload={"states": to}` of a compiled graph does the same.

        Args:
            to: the folder: a path, or an `OffloadTo`. State tensors smaller than
                `OffloadTo.smallest` (1 MiB for a path) stay in memory. So do state tensors on
                accelerators, in parts on several ranks (DTensor), or with gaps in memory.

        Raises:
            OptionError: the optimizer has another folder, or another `smallest`; or `to` names no
                folder.
            TierError: the folder cannot hold the file.
            TierFullError: the disk has no room for the states of all parameters.
            TransferError: the disk fails.
        """
        if not self._stored.keep_in(to := OffloadTo.parse(to)):
            return
        params = [p for p in self._members if p.requires_grad]
        file_tier(to.folder).reserve(sum(self._stored.room(p, self.states_of(p)) for p in params))
        for param, state in self.state.items():
            self._stored.move(
                self._members.name(param), param, self.rule_of(param).state(param), state
            )
        begin_epoch()  # what `needs` told plans earlier is obsolete

    def state_dict(self) -> StateDict:
        """Returns the state dict as torch does, without parameters that have left the groups.

        The tensors in it are those of the optimizer, except for states that lie in a file: these
        are read into new tensors.

        Raises:
            TransferError: a state does not come back from the file as it was sent.
            HyperparameterError, MidBatchError: an edit of the groups is refused (`look_at_groups`).
        """
        self.look_at_groups()
        everything = self.state
        self.state = of_members(everything, self._members.places)
        for param, state in self.state.items():
            if is_stored(state):
                self.state[param] = in_memory(state)
        try:
            return super().state_dict()
        finally:
            self.state = everything

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Loads a state dict as torch does, sharing tensors with the state dict if possible.

        States that are to lie in a file are written there.

        Raises:
            StateMismatchError: a state tensor that a parameter needs is missing or has another
                shape, or the state dict is of an optimizer with amsgrad or maximize.
            ValueError: the state dict has another number of groups, or other numbers of parameters
                in them.
            HyperparameterError: a value in the groups of the state dict is out of its range.
            HyperparameterError, MidBatchError: an edit of the groups is refused (`look_at_groups`).
            TierFullError, TransferError: the disk is full, or fails.
        """
        self.look_at_groups()
        check_fits(state_dict, [*self._wanted(state_dict)])
        self._stored.forget()
        super().load_state_dict(state_dict)
        self._members = Members(self.param_groups)  # as torch has replaced the groups' dicts
        self._rules.forget()
        for group in self.param_groups:
            self._rules.fill(group)
        begin_epoch()  # what `needs` told plans earlier is obsolete
        saved = saved_states(state_dict, self._members)
        for param, state in self.state.items():
            fit_loaded(param, state, saved[param], self.states_of(param))
            self._stored.move(
                self._members.name(param), param, self.rule_of(param).state(param), state
            )

    def _wanted(self, state_dict: StateDict) -> Iterator[tuple[str, tuple[StateSpec, ...]]]:
        """Yields each parameter's name, and the specs of its states after loading a state dict.

        The specs may depend on the group's values in the state dict: SGD with a momentum of 0, for
        example, has no state for it.
        """
        loaded = iter(state_dict["param_groups"])
        for group in self.param_groups:
            values = {**group, **{k: v for k, v in next(loaded, {}).items() if k in group}}
            for param in group["params"]:
                rule = self._rules.made(values, self.facts(param))
                yield self._members.name(param), rule.state(param)
