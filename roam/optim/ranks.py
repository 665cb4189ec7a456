"""Data-parallel training: each rank folds its own gradients, and states are combined once a step.

    rank 0    N folds into m, v ──┐
    rank 1    N folds into m, v ──┼── all_reduce of m, v ── step
    rank 2    N folds into m, v ──┘

The result of M ranks with N micro-batches each is that of one process with N·M micro-batches
(AdamA, arXiv 2305.19982, section 3.3; m and v are AdamA's states). A state that is linear in the
gradients is averaged over the ranks. A state that is a sum of squares, each of a gradient divided
by N, is summed over the ranks and divided by M²: this gives the squares of gradients divided by
N·M. To leave the state's value from before the mini-batch as it was, every rank first multiplies
that value by M (M·β2 in the paper): M ranks sum it to M² times the value.

In each mini-batch, a rank sends each state tensor that folds have changed: once, and large ones
while the last backward runs (`early_sends`). To sum each gradient before its fold instead would
send N times as many elements as the parameters have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from roam.core.errors import RanksDifferError
from roam.core.machine import MIB, Bytes
from roam.optim.fold import OverRanks

SMALL: Bytes = MIB  # tensors below this size are copied into buckets and sent together
BUCKET: Bytes = 25 * MIB  # size at which a bucket is sent, as in DistributedDataParallel
AHEAD = 4  # all_reduces of `Ranks.combine` that run at a time


# numbers the objects of `Ranks`, for the keys of `Ranks.take`; the numbers are the same on all
# ranks, because every rank makes these objects in the same order
_numbers = itertools.count()


class Part(NamedTuple):
    """A state tensor that the ranks combine.

    Attributes:
        numbers: the state tensor, or its decoded values if it holds 8-bit codes.
        over: how the ranks combine it: "mean" or "squares" (a sum of squares).
        done: called with `numbers` after they are combined, to store what was decoded.
    """

    numbers: Tensor
    over: OverRanks
    done: Callable[[Tensor], None]


class Alone:
    """One process that trains a model alone. Stands in for `Ranks`, with no other rank to ask."""

    def check_alike(self, named: Iterable[tuple[str, Tensor]]) -> None:
        return None

    @property
    def before_squares(self) -> float:
        return 1.0

    def take(self, state: Tensor, key: str) -> None:
        return None


class Ranks:
    """The ranks that train one model with folds of their own.

    Attributes:
        group: the process group.
        size: M, the number of ranks.
        sent: number of elements of states that this rank has passed to all_reduce.
        small: bytes of the smallest tensor that is sent by itself, and not in a bucket.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.size = group, dist.get_world_size(group)
        self.sent, self.small = 0, SMALL
        # A group for the message of `agree`. Collectives of one group are matched by their order,
        # and ranks have sent different numbers of states by then: in the group of the states, a
        # rank would take the message for a state.
        self._control = dist.new_group(
            dist.get_process_group_ranks(group), use_local_synchronization=True
        )
        self._number = next(_numbers)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: a copied optimizer trains with the same ranks."""
        return self

    def check_alike(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Raises RanksDifferError if the ranks do not begin with the same parameters.

        Compares names, shapes, dtypes and values. All ranks must call this function.

        named: (name, parameter) for all parameters, in the order of the groups.
        """
        mine = [(name, tuple(p.shape), str(p.dtype), _digest(p)) for name, p in named]
        every: list[list[tuple[Any, ...]]] = [[] for _ in range(self.size)]
        dist.all_gather_object(every, mine, self.group)
        first = every[0]
        for rank, other in enumerate(every):
            if len(other) != len(first):
                raise RanksDifferError(
                    f"rank {rank} has {len(other)} parameters, and rank 0 has {len(first)}"
                )
            for here, there in zip(first, other, strict=True):
                if here != there:
                    what = "other values" if here[:3] == there[:3] else f"{there[:3]}"
                    raise RanksDifferError(
                        f"{here[0]}: rank {rank} has {what} where rank 0 has {here[1:3]}. Build "
                        "the model alike on every rank (torch.manual_seed), or broadcast its "
                        "parameters from rank 0 first"
                    )

    @property
    def before_squares(self) -> float:
        """M, by which each rank multiplies a sum of squares before a mini-batch's first fold.

        `combine` sums the results of the M ranks and divides by M², so that the factor cancels.
        """
        return float(self.size)

    def take(self, state: Tensor, key: str) -> None:
        """Overwrites a state tensor by that of rank 0. Rank 0 sends it, and all others wait for it.

        The tensor goes through the process group's store and not by a collective: a parameter may
        have a gradient on some ranks only, and the other ranks would not take part.

        Args:
            state: the tensor.
            key: a key for the tensor, the same on every rank and another in each mini-batch.

        Raises:
            RanksDifferError: rank 0 stores no such tensor before the store's timeout.
        """
        store: Any = self.group.get_group_store()
        key = f"roam/state/{self._number}/{key}"
        if self.group.rank() == 0:
            store.set(key, _bytes(state).tobytes())
            return
        try:
            given = store.get(key)
        except RuntimeError as error:
            raise RanksDifferError(
                f"{key}: rank 0 has not made this state of the optimizer, which all ranks take "
                "from it. Every parameter that has it needs a gradient on rank 0"
            ) from error
        made = torch.frombuffer(bytearray(given), dtype=state.dtype)
        state.copy_(made.view(state.shape))
        if store.add(f"{key}/read", 1) == self.size - 1:
            store.delete_key(key)
            store.delete_key(f"{key}/read")

    def agree(
        self, folded: Sequence[bool], sent: int, device: torch.device
    ) -> tuple[list[bool], int]:
        """Agrees with the other ranks on the parameters to update and the states sent early.

        A state is sent early if it is sent while the last backward of the mini-batch runs. All
        ranks must call this function.

        Args:
            folded: by parameter, in the order of the groups, whether it has a gradient here.
            sent: how many states this rank has sent early.
            device: the device of the message.

        Returns:
            anywhere: by parameter, whether it has a gradient on any rank.
            most: the largest `sent` of all ranks.
        """
        found = torch.tensor([*map(int, folded), sent], dtype=torch.int32, device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX, self._control)
        *anywhere, most = found.tolist()
        return [bool(each) for each in anywhere], most

    def combine(self, parts: Iterable[Part]) -> None:
        """Combines states over the ranks, in place, and calls `done` of each part.

        Takes further parts only when less than AHEAD messages are under way, so that few decoded
        copies of states are in memory at a time. All ranks must call this function.

        Args:
            parts: the states, in the same order on all ranks. An iterator may decode a state only
                when it yields it.
        """
        waits: list[Callable[[], None]] = []
        for bucket in _buckets(parts, self.small):
            waits.append(self.start(bucket))
            if len(waits) == AHEAD:
                waits.pop(0)()
        for wait in waits:
            wait()

    def start(self, bucket: Sequence[Part]) -> Callable[[], None]:
        """Starts to combine states in one message.

        Returns a function that waits for the message, and then writes the combined values into
        `numbers` of each part and calls its `done`.
        """
        sent = _joined([part.numbers for part in bucket])
        self.sent += sent.numel()
        work = dist.all_reduce(sent, group=self.group, async_op=True)

        def wait() -> None:
            if work is not None:
                work.wait()
            at = 0
            for numbers, over, done in bucket:
                if sent is not numbers:
                    numbers.copy_(sent[at : at + numbers.numel()].view(numbers.shape))
                    at += numbers.numel()
                numbers.mul_(1 / self.size if over == "mean" else 1 / self.size**2)
                done(numbers)

        return wait


def _digest(param: Tensor) -> str:
    """Returns a hash of the parameter's values."""
    return blake2b(_bytes(param).data, digest_size=16).hexdigest()


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Returns the bytes of the tensor's elements, in CPU memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy()


def _buckets(parts: Iterable[Part], small: Bytes) -> Iterator[list[Part]]:
    """Groups states into messages: a large one alone, small ones of one dtype and device together.

    Yields a message of small states as soon as they have BUCKET bytes, and the rest at the end.

    small: bytes of the smallest tensor that counts as large.
    """
    open_: dict[tuple[torch.dtype, torch.device], list[Part]] = {}
    for part in parts:
        tensor = part.numbers
        if tensor.nbytes >= small:
            yield [part]
            continue
        bucket = open_.setdefault((tensor.dtype, tensor.device), [])
        bucket.append(part)
        if sum(other.numbers.nbytes for other in bucket) >= BUCKET:
            yield open_.pop((tensor.dtype, tensor.device))
    yield from open_.values()


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the tensor to send: a single contiguous tensor itself, else a copy of all in one."""
    [first, *others] = tensors
    if not others and first.is_contiguous():
        return first
    return torch.cat([t.reshape(-1) for t in tensors])
