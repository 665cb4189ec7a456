"""Steps that move tensors while something goes wrong at a random place.

Whatever it is: no wrong byte is ever handed out, the error names a tensor of the step, nothing
hangs, no file is left in the folder, and the next step works.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import Tensor

from roam.core.errors import TransferError
from roam.runtime.file_tier import FileTier
from roam.runtime.regions import Region
from roam.runtime.tier_file import whole_pages
from roam.runtime.transfers import Slot, Transfer
from tests.runtime.faults import KIB, SMALL, Fault, FaultyCalls, file_of, flip, on_disk, swap
from tests.runtime.moving import open_regions

BESIDE = ("flipped bit", "swapped slots", "shorter file", "dead thread", "interrupt")
HARMLESS = (Fault.LATE, Fault.HALF, Fault.ODD)
CERTAIN = (Fault.EIO, Fault.ENOSPC, Fault.NOTHING, "shorter file", "flipped bit")


class Interrupted(BaseException):
    """What a signal raises at a random place, as Ctrl-C does."""


@dataclass
class Step:
    """A step that writes some tensors, and then reads them back, last first, two at a time."""

    tier: FileTier
    tensors: list[Tensor]
    slots: list[Slot] = field(default_factory=list)

    def forward(self) -> None:
        offsets, end = [], 0
        for tensor in self.tensors:
            offsets.append(end)
            end += whole_pages(tensor.nbytes)
        region: Region = self.tier.open(end)
        for i, (tensor, offset) in enumerate(zip(self.tensors, offsets, strict=True)):
            self.slots.append(self.tier.start_write(region, tensor, offset, f"tensor {i}"))
            if i:
                self.tier.wait_written(self.slots[i - 1], self.tensors[i - 1])
        self.tier.wait_written(self.slots[-1], self.tensors[-1])

    def backward(self) -> None:
        """Raises AssertionError if a wrong byte is handed out."""
        waiting: list[tuple[Slot, Tensor, Tensor]] = []
        for slot, sent in zip(self.slots[::-1], self.tensors[::-1], strict=True):
            target = torch.full_like(sent, 0xAA)
            self.tier.start_read(slot, target)
            waiting.append((slot, target, sent))
            if len(waiting) == 2:
                self.look(*waiting.pop(0))
        for each in waiting:
            self.look(*each)

    def look(self, slot: Slot, target: Tensor, sent: Tensor) -> None:
        self.tier.wait_read(slot, target)
        assert torch.equal(target, sent), f"wrong bytes of {slot.name!r}"


def some_tensors(rng: random.Random) -> list[Tensor]:
    sizes = [
        rng.choice([1, 511, 512, 4096, 32 * KIB, rng.randrange(1, 100 * KIB)]) for _ in "12345"
    ]
    return [torch.frombuffer(bytearray(rng.randbytes(n)), dtype=torch.uint8) for n in sizes]


@contextmanager
def watchdog() -> Iterator[None]:
    """Ends the process, with the stacks of all threads, if it hangs."""
    faulthandler.dump_traceback_later(60, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def interrupt(after: float) -> Iterator[None]:
    """Raises Interrupted in the main thread after so many seconds."""

    def stop(_: int, __: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def dying(after: int) -> Iterator[None]:
    """Lets the I/O thread die that takes the n-th transfer from now on."""
    run, left = Transfer.run, [after]

    def die(self: Transfer) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise SystemExit
        run(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transfer, "run", die)
        patch.setattr(
            threading, "excepthook", lambda _: None
        )  # pytest's keeps what the frames hold
        yield


def beside(fault: str, step: Step, rng: random.Random) -> None:
    """Changes the file between forward and backward."""
    slots = [slot for slot in step.slots if slot.nbytes]
    a, b = rng.sample(slots, 2)
    match fault:
        case "flipped bit":
            flip(step.tier, a.offset + rng.randrange(a.nbytes), rng.randrange(8))
        case "swapped slots":
            swap(step.tier, a.offset, b.offset, min(a.nbytes, b.nbytes))
        case "shorter file":
            with file_of(step.tier) as fd:
                os.ftruncate(fd, a.offset)


def check(error: TransferError, tier: FileTier) -> None:
    """Checks that an error says what it is about."""
    assert error.tensor in {f"tensor {i}" for i in range(5)}
    assert error.tensor in str(error)
    assert error.folder == str(tier.folder)
    assert error.direction in ("write", "read")


def run_with(fault: Fault | str, tier: FileTier, calls: FaultyCalls, rng: random.Random) -> str:
    """Runs a step with a fault. Returns how it ended."""
    step = Step(tier, some_tensors(rng))
    if isinstance(fault, Fault):
        calls.arm(rng.choice(["write", "read"]), rng.randrange(5), fault)
    try:
        with (
            interrupt(rng.uniform(0.0001, 0.01) if fault == "interrupt" else 60),
            dying(rng.randrange(10) if fault == "dead thread" else 1000),
        ):
            step.forward()
            beside(fault, step, rng)
            step.backward()
    except TransferError as error:
        check(error, tier)
        return f"error {error.errno}"
    except Interrupted:
        return "interrupted"
    return "well"


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=[pytest.mark.slow] * (s > 0)) for s in range(10)]
)
def test_no_fault_gives_a_wrong_byte(tmp_path: Path, seed: int, direct: bool) -> None:
    """Fifty faults for each seed and way to the disk."""
    rng = random.Random(seed * 2 + direct)
    kinds = [*Fault, *BESIDE]
    found: Counter[tuple[str, str]] = Counter()
    with watchdog():
        for n in range(50):
            calls = FaultyCalls(direct=direct)
            tier = FileTier(on_disk(tmp_path), SMALL, calls)
            tier.reserve(1024 * KIB)  # the file's own tests have no part in the counts
            fault = kinds[n % len(kinds)]
            ended = run_with(fault, tier, calls, rng)
            found[fault, ended] += 1
            if fault in HARMLESS or (isinstance(fault, Fault) and not calls.is_over):
                assert ended == "well", fault
            elif fault in CERTAIN:
                assert ended.startswith("error"), fault
            calls.disarm()
            tier.settle()
            if fault != "shorter file":  # that one stays so
                step = Step(tier, some_tensors(rng))
                step.forward()
                step.backward()
                del step
                assert open_regions(tier) == []
            assert os.listdir(tmp_path) == []
            tier.close()
    harmful = {str(f) for f in kinds} - {str(f) for f in HARMLESS}
    raised = {fault for fault, ended in found if ended != "well"}
    assert raised >= harmful - {"interrupt"}


@pytest.mark.slow
def test_jitter_changes_nothing(tmp_path: Path) -> None:
    """In 200 steps whose transfers are late, the file does not grow and all bytes are right."""
    rng = random.Random(0)
    calls = FaultyCalls()
    tier = FileTier(on_disk(tmp_path), SMALL, calls)
    tensors = some_tensors(rng)
    sizes = set()
    with watchdog():
        for _ in range(200):
            for kind in ("write", "read"):
                for n in rng.sample(range(12), 4):
                    calls.arm(kind, n, Fault.LATE)
            step = Step(tier, tensors)
            step.forward()
            step.backward()
            del step
            sizes.add(tier.file_size)
    assert len(sizes) == 1
    tier.close()
