"""Keeps large state tensors of an optimizer in a file between steps.

    optimizer.state[p]   {"exp_avg": StoredTensor, "exp_avg_sq": StoredTensor, "step": tensor}

These tensors are in memory only while they are used:

    fold in a compiled graph          the graph loads and stores them as planned
    fold by a hook, or in step() of   `lent` loads and stores them, one parameter at a time
    a gradient found in .grad
    update in step()                  `fetch` and `arrived` load them, two parameters at a time;
                                      step() stores those that the update changes

A tensor that starts as zeros is not read from the file before it was first written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from roam.core.errors import OptionError
from roam.core.folds import StoredState
from roam.core.machine import Bytes
from roam.core.offload_to import OffloadTo
from roam.optim.data_parallel import is_sharded
from roam.optim.fold import StateSpec
from roam.passes.geometry import is_dense
from roam.runtime.file_tier import file_tier
from roam.runtime.stored_tensor import StoredTensor
from roam.runtime.tier_settings import Verify


class StoredStates:
    """The folder of one optimizer's state tensors, if it has one, and the writes under way there.

    Attributes:
        to: the folder, and the bytes of the smallest tensor that goes there; None if all states
            are in memory.
    """

    def __init__(self) -> None:
        self.to: OffloadTo | None = None
        self._writing: list[StoredTensor] = []

    def keep_in(self, to: OffloadTo) -> bool:
        """Sets the folder of states that are made from now on. Returns whether it was unset before.

        If it was unset, also sets how bytes read back from this folder are verified, from now on
        and for everything in the folder, other optimizers' states too. If it was set already,
        changes nothing: another `verify` is ignored.

        Raises:
            OptionError: the optimizer has another folder, or another `smallest`.
            TierError: tensors cannot be kept in the folder: it is missing, for example, or lies in
                memory.
        """
        if self.to is not None:
            if (self.to.folder, self.to.smallest) != (to.folder, to.smallest):
                raise OptionError(
                    f"the optimizer keeps states of at least {self.to.smallest} bytes in "
                    f"{self.to.folder}: name the same folder and size in every graph, not "
                    f"{to.folder} and {to.smallest}"
                )
            return False
        file_tier(to.folder).verify_by(Verify(to.verify))
        self.to = to
        return True

    def stored(
        self, param: Tensor, spec: StateSpec, to: OffloadTo | None = None
    ) -> StoredState | None:
        """Returns the facts that plans need about a state tensor in the folder; None if in memory.

        Without a folder, all states are in memory. With a folder, a state stays in memory if it is
        smaller than `to.smallest`, on an accelerator, in parts on several ranks (DTensor), or has
        gaps.

        Args:
            param: the parameter, which may be fake.
            spec: describes the state tensor.
            to: the folder that is planned for; None for the optimizer's folder.
        """
        to = to or self.to
        if to is None or spec.bytes < to.smallest or param.device.type not in ("cpu", "meta"):
            return None
        made = None if is_sharded(param) else spec.make(param.detach().to("meta"))
        if made is None or not is_dense(made):
            return None
        return StoredState(spec.name, spec.bytes, tuple(made.shape), made.stride(), made.dtype)

    def room(self, param: Tensor, specs: tuple[StateSpec, ...]) -> Bytes:
        """Returns the bytes of the state tensors of a parameter that are to lie in the folder."""
        return sum(spec.bytes for spec in specs if self.stored(param, spec) is not None)

    def make(self, name: str, param: Tensor, spec: StateSpec) -> Tensor | StoredTensor:
        """Returns a state tensor as it starts, in the folder if it is to be there.

        Args:
            name: the name of the parameter.
            param: the parameter.
            spec: describes the state tensor.

        Raises:
            TierFullError: the disk is full.
            TransferError: the disk fails.
        """
        if (made := self._stored_zeros(name, param, spec)) is None:
            return spec.make(param)
        if spec.start:
            made.store(spec.make(param))
        return made

    def _stored_zeros(self, name: str, param: Tensor, spec: StateSpec) -> StoredTensor | None:
        """Returns a new state tensor of zeros in the folder; None if it has to be in memory."""
        found = self.stored(param, spec)
        if found is None or self.to is None:
            return None
        how = found.size, found.stride, found.dtype
        return StoredTensor(file_tier(self.to.folder), f"{name}.{spec.name}", *how)

    def move(
        self,
        name: str,
        param: Tensor,
        specs: tuple[StateSpec, ...],
        state: MutableMapping[str, Any],
    ) -> None:
        """Moves those state tensors of a parameter to the folder that may lie there (`stored`).

        Replaces them in `state` by `StoredTensor`s.

        Raises:
            TierFullError: the disk is full.
            TransferError: the disk fails.
        """
        for spec in specs:
            tensor = state.get(spec.name)
            if not isinstance(tensor, Tensor):
                continue
            if (made := self._stored_zeros(name, param, spec)) is not None:
                made.store(tensor)
                state[spec.name] = made

    @contextmanager
    def lent(
        self, state: Mapping[str, Any], loaded: Mapping[str, Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        """A context in which the states of a parameter are in memory and may be changed.

        Reads the states that are not in `loaded`. When the context ends, starts to write these
        states to the file. The next context waits for the writes before it reads, so that states
        read here are in memory for one parameter at a time. If the context ends by an exception,
        nothing is written, and the states stay in memory.

        Args:
            state: the states; at least one of them lies in the file.
            loaded: by name, states that a graph has loaded and will write back.

        Yields:
            All states of the parameter, by name, in memory.

        Raises:
            TransferError: a state does not come back as it was sent, or could not be written.
        """
        self.settle()
        stored = {name: x for name, x in state.items() if isinstance(x, StoredTensor)}
        here = fetch({name: x for name, x in stored.items() if name not in loaded})
        found = {**arrived(state, here), **loaded}
        for name, x in stored.items():
            x.hold(found[name])
        yield found
        for name, target in here.items():
            stored[name].start_write(target)
            self._writing.append(stored[name])

    def settle(self) -> None:
        """Waits for writes under way. Raises TransferError if one failed."""
        while self._writing:
            self._writing.pop().settle()

    def forget(self) -> None:
        """Forgets the writes under way without waiting: their states are no longer needed."""
        self._writing.clear()


def is_stored(state: Mapping[str, Any]) -> bool:
    """Returns whether any state tensor of a parameter lies in a file."""
    return any(isinstance(x, StoredTensor) for x in state.values())


def fetch(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Starts to read the states of a parameter that lie in a file.

    Returns, by name, the tensors that the states are read into. They hold the states only after
    `arrived`.

    Raises:
        TransferError: a read cannot be started.
    """
    found = {name: x.empty() for name, x in state.items() if isinstance(x, StoredTensor)}
    for name, target in found.items():
        state[name].start_read(target)
    return found


def arrived(state: Mapping[str, Any], fetched: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Waits for the states that `fetch` reads. Returns all states of the parameter, in memory.

    Args:
        state: the parameter's states.
        fetched: what `fetch` returned for them.

    Raises:
        TransferError: a state does not come back as it was sent.
    """
    for name, target in fetched.items():
        state[name].wait_read(target)
    return {**state, **fetched}


def in_memory(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all states of a parameter in memory. Reads those that lie in a file.

    Raises TransferError if a state does not come back as it was sent.
    """
    return {name: x.load() if isinstance(x, StoredTensor) else x for name, x in state.items()}
