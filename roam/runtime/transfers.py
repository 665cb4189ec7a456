"""The bytes of a tensor on their way to a tier's file, or back.

    slot        the tensor's place in the file; whoever holds it can have the bytes back
    transfer    a job of the I/O thread of one direction; holds the memory until it is over
    channel     one direction of a tier: its thread, its pace, its bounce buffer, its counters

                  head          body           tail
    memory      ├───────┤├───────────────────┤├────┤      the body begins and ends where a direct
    file        ├───────────────────┤├───────┤├────┤      transfer may: it is moved without a copy
                        body           head   tail

The body goes chunk by chunk. If the memory that it comes back to begins at another place of a unit,
its chunks are copied. A transfer is given up if nobody can wait for it any more, since its slot is
gone: so a dropped graph, or one that an exception ended, does not hold up those that follow.
"""

from __future__ import annotations

import threading
import time
import weakref

import numpy as np
import torch
from torch import Tensor

from roam.core.machine import MIB, Bytes
from roam.runtime.fingerprint import Data, Fingerprint
from roam.runtime.io_thread import IoThread, Job, ThreadDiedError
from roam.runtime.pace import Pace
from roam.runtime.regions import Direction, Region, Span
from roam.runtime.tier_file import TierFile, bounce_buffer
from roam.runtime.tier_settings import Settings, Traffic

BOUNCE: Bytes = 4 * MIB
Geometry = tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]  # dtype, shape, stride


class Slot(Span):
    """A tensor in the file, or on its way there.

    Attributes:
        geometry: of the tensor.
        source: the address that it is written from.
        written: the transfer to the file; None until it has been started.
        is_written: whether that has been waited for, and went well.
        reads: the transfers back that were started last, by the address of their target.
        head: bytes before the first that could begin a direct transfer when they were written.
    """

    def __init__(self, region: Region, name: str, offset: int, source: Tensor) -> None:
        super().__init__(region, name, offset, source.nbytes)
        self.geometry, self.source = geometry(source), source.data_ptr()
        self.written: Transfer | None = None
        self.is_written = False
        self.reads: dict[int, Transfer] = {}
        self.head: Bytes = 0

    @property
    def is_moving(self) -> bool:
        """Whether its bytes are on their way, there or back."""
        transfers = [self.written, *self.reads.values()]
        return any(transfer is not None and not transfer.is_done for transfer in transfers)


class GivenUpError(RuntimeError):
    """A transfer was cancelled, or nobody could wait for it any more."""


class WrongBytesError(RuntimeError):
    """What came back is not what was sent."""


class Channel:
    """One direction of a tier.

    Attributes:
        direction: "write" goes to the file.
        traffic: what has gone this way.
    """

    def __init__(self, direction: Direction, settings: Settings) -> None:
        self.direction: Direction = direction
        self.thread = IoThread(f"roam {direction}s")
        self.start_afresh()
        self.use(settings)

    def start_afresh(self) -> None:
        """Forgets what is under way: in a forked process nobody carries it out."""
        self.thread.start_afresh()
        self.traffic = Traffic()
        self._lock = threading.Lock()
        self._under_way: weakref.WeakSet[Transfer] = weakref.WeakSet()
        self._bounce: Data | None = None

    def use(self, settings: Settings) -> None:
        """Takes settings for the transfers that start from now on."""
        rate = settings.write_pace if self.direction == "write" else settings.read_pace
        self.settings, self.pace = settings, Pace(rate)

    def start(self, slot: Slot, memory: Data) -> Transfer:
        """Starts a transfer between a slot and memory, and returns it."""
        transfer = Transfer(self, slot, memory)
        with self._lock:
            self._under_way.add(transfer)
        try:
            self.thread.hand_over(transfer)
        except RuntimeError as error:  # the system has no more threads
            raise slot.failure(self.direction, str(error)) from error
        return transfer

    def finish(self, slot: Slot, transfer: Transfer | None) -> None:
        """Waits for a transfer.

        Raises:
            TransferError: it did not go well, or was never started.
        """
        if transfer is None:
            raise slot.failure(self.direction, "nobody has started that")
        if not transfer.is_done:
            begin = time.perf_counter()
            try:
                transfer.wait()
            except ThreadDiedError as error:
                raise slot.failure(self.direction, str(error)) from error
            finally:
                self.count(Traffic(stalled=time.perf_counter() - begin))
        if (cause := transfer.error) is not None:
            number = cause.errno if isinstance(cause, OSError) else None
            raise slot.failure(self.direction, _reason(cause), number) from cause

    def settle(self) -> None:
        """Cancels what is under way. When it returns, the thread works on nobody's memory."""
        with self._lock:
            found = list(self._under_way)
        for transfer in found:
            transfer.cancel()
        for transfer in found:
            try:
                transfer.wait()
            except ThreadDiedError:  # then nobody works on the memory either
                continue

    def count(self, more: Traffic) -> None:
        with self._lock:
            self.traffic = self.traffic.plus(more)

    def bounce(self) -> Data:
        """Returns the bounce buffer, which only the I/O thread uses."""
        if self._bounce is None:
            self._bounce = bounce_buffer(BOUNCE)
        return self._bounce


class Transfer(Job):
    """The bytes of one slot on their way.

    Attributes:
        fingerprint: of the bytes; None if the settings do not ask for it.
    """

    def __init__(self, channel: Channel, slot: Slot, memory: Data) -> None:
        super().__init__()
        self.fingerprint: int | None = None
        self._channel, self._settings, self._pace = channel, channel.settings, channel.pace
        sent = slot.written
        known = sent is not None and sent._settings.verify is channel.settings.verify
        self._expected = sent.fingerprint if sent is not None and known else None
        self._slot = weakref.ref(slot)
        self._offset, self._head = slot.offset, slot.head
        self._held: tuple[Region, Data] | None = slot.region, memory  # until it is over
        self._since = channel.pace.now()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Gives the transfer up, at the next chunk if it is under way."""
        self._is_cancelled = True

    def carry_out(self) -> None:
        # drops the references before the job counts as done: whoever waited for it may rely on the
        # region being free then
        (region, memory), self._held = self._held or (None, None), None
        assert region is not None
        assert memory is not None
        begin = time.perf_counter()
        mark = self._settings.fingerprint()
        copied = 0
        body, rest = self._cut(memory, region.file.way.unit)
        most = self._settings.piece(self._pace.rate)
        for start in range(0, body.size, most):
            piece = body[start : start + most]
            copied += self._move(region.file, piece, self._offset + start, mark)
        if rest:
            copied += self._move_rest(region.file, rest, self._offset + body.size, mark)
        if self._channel.direction == "write":
            region.file.flush(self._offset, memory.size)
        self.fingerprint = None if mark is None else mark.value
        if None not in (self._expected, mark) and self.fingerprint != self._expected:
            raise WrongBytesError("the bytes in the file are not those that were sent")
        busy = time.perf_counter() - begin
        self._channel.count(Traffic(1, memory.size, copied, busy))

    def _cut(self, memory: Data, unit: Bytes) -> tuple[Data, list[Data]]:
        """Returns the body, and what is before and behind it."""
        end = self._head + (memory.size - self._head) // unit * unit
        around = memory[: self._head], memory[end:]
        return memory[self._head : end], [part for part in around if part.size]

    def _move_rest(
        self, file: TierFile, parts: list[Data], offset: int, mark: Fingerprint | None
    ) -> Bytes:
        """Moves what is before and behind the body, as one piece."""
        joined = np.concatenate(parts)
        self._move(file, joined, offset, mark)
        if self._channel.direction == "read":
            parts[0][:] = joined[: parts[0].size]
            parts[-1][:] = joined[joined.size - parts[-1].size :]
        return joined.size

    def _move(self, file: TierFile, piece: Data, offset: int, mark: Fingerprint | None) -> Bytes:
        """Moves a chunk. Returns how many of its bytes were copied on the way."""
        if self._is_cancelled or self._slot() is None:
            raise GivenUpError("the transfer was given up")
        bounce = self._channel.bounce()
        self._pace.begin(piece.size, self._since)
        if self._channel.direction == "write":
            if mark is not None:
                mark.add(piece)
            copied = file.write(piece, offset, bounce)
        else:
            copied = file.read(piece, offset, bounce)
            if mark is not None:
                mark.add(piece)
        self._pace.end()
        return copied


def geometry(tensor: Tensor) -> Geometry:
    """Returns what tells where each element lies. The strides of dims of one element do not."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    strides = tuple(0 if size == 1 else stride for size, stride in pairs)
    return tensor.dtype, tuple(tensor.shape), strides


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"[Errno {error.errno}] {error.strerror}"
    return str(error) or type(error).__name__
