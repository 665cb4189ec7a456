"""Data-parallel training: each rank folds its own gradients, and states are combined once a step.

    rank 0    N folds into m, v ──┐
    rank 1    N folds into m, v ──┼── all_reduce of m, v ── step
    rank 2    N folds into m, v ──┘

The result is that of one process with N·M micro-batches, for M ranks (AdamA, arXiv 2305.19982,
section 3.3). A state that is linear in the gradients is averaged. A sum of squares, each of a
gradient divided by N, becomes one of gradients divided by N·M if it is summed over the ranks and
divided by M². What it was before the mini-batch counts M times on every rank (M·β2 in the paper),
so that this is left as it was.

A mini-batch sends each state tensor once, large ones while the last backward runs (early_sends).
Summing gradients sends N times as many elements as the parameters have.
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
AHEAD = 4  # all_reduces that run at a time


_numbers = itertools.count()  # of optimizers on ranks: every rank makes them in the same order


class Part(NamedTuple):
    """A state tensor that the ranks combine.

    Attributes:
        numbers: the state tensor, or what its code stands for.
        over: how it is combined.
        done: called with `numbers` when they are combined.
    """

    numbers: Tensor
    over: OverRanks
    done: Callable[[Tensor], None]


class Alone:
    """One process that trains a model by itself. See `Ranks`."""

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
        sent: elements of states that this rank has given to all_reduce.
        small: bytes of the smallest tensor that is sent by itself.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.size = group, dist.get_world_size(group)
        self.sent, self.small = 0, SMALL
        # for the message that says how many states a rank has sent. In the group of the states it
        # would be taken for one of them: collectives of a group are matched by their order, and
        # ranks may have sent different numbers of states when it comes
        self._control = dist.new_group(
            dist.get_process_group_ranks(group), use_local_synchronization=True
        )
        self._number = next(_numbers)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: a copied optimizer trains with the same ranks."""
        return self

    def check_alike(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Raises RanksDifferError if the ranks do not begin with the same parameters.

        named: name and parameter, in the order of the groups.
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
        """The factor of sums of squares before the first fold of a mini-batch, M.

        `combine` divides them by M², and by then there are M of them.
        """
        return float(self.size)

    def take(self, state: Tensor, key: str) -> None:
        """Overwrites a state tensor by rank 0's.

        By the store: a gradient may come on some ranks only, which would then wait for the others
        in a collective of their own.

        Args:
            state: the tensor.
            key: names it, alike on every rank and differently in each mini-batch.

        Raises:
            RanksDifferError: rank 0 has none until the store's timeout.
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
        """Returns which parameters have a gradient on any rank, and the most that a rank has sent.

        Args:
            folded: which have one on this rank, in the order of the groups.
            sent: how many states this rank has sent early.
            device: where the ranks communicate.
        """
        found = torch.tensor([*map(int, folded), sent], dtype=torch.int32, device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX, self._control)
        *anywhere, most = found.tolist()
        return [bool(each) for each in anywhere], most

    def combine(self, parts: Iterable[Part]) -> None:
        """Combines states over the ranks, in place.

        Takes a part when there is room to send it, so that few codes are decoded at a time.

        Args:
            parts: the states, in an order that all ranks have.
        """
        waits: list[Callable[[], None]] = []
        for bucket in _buckets(parts, self.small):
            waits.append(self.start(bucket))
            if len(waits) == AHEAD:
                waits.pop(0)()
        for wait in waits:
            wait()

    def start(self, bucket: Sequence[Part]) -> Callable[[], None]:
        """Starts to combine states together. Returns what waits until they are combined."""
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
    """Returns a hash of the values."""
    return blake2b(_bytes(param).data, digest_size=16).hexdigest()


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """Returns the bytes of the elements, in memory of the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy()


def _buckets(parts: Iterable[Part], small: Bytes) -> Iterator[list[Part]]:
    """Yields what is sent together: a large tensor by itself, small ones of a dtype and device.

    small: bytes of the smallest large tensor.
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
    """Returns a tensor to send: the only one, or a contiguous copy of all."""
    [first, *others] = tensors
    if not others and first.is_contiguous():
        return first
    return torch.cat([t.reshape(-1) for t in tensors])
