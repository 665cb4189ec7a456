"""A transfer keeps its memory and its place as long as it is under way, and no longer."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from roam.core.errors import TransferError
from roam.core.machine import PAGE
from roam.runtime.file_tier import FileTier
from roam.runtime.tier_folder import SystemCalls
from roam.runtime.transfers import Transfer
from tests.runtime.faults import KIB, SMALL, FaultyCalls, flip
from tests.runtime.moving import fetch, open_regions, send, some, space_of, write_of


class Gate(SystemCalls):
    """Lets the I/O threads wait in the system, from when the test shuts the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def shut(self) -> None:
        self.reached.clear()
        self.gate.clear()

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        self.pass_through()
        return super().write(fd, data, offset)

    def read(self, fd: int, into: memoryview, offset: int) -> int:
        self.pass_through()
        return super().read(fd, into, offset)

    def pass_through(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.reached.set()
            self.gate.wait()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.gate.set()


def test_pending_forwards_have_regions_of_their_own(tier: FileTier) -> None:
    a, b = some(9 * KIB, 1), some(9 * KIB, 2)
    slots = [send(tier, t) for t in (a, b)]
    assert torch.equal(fetch(tier, slots[0], a), a)
    assert torch.equal(fetch(tier, slots[1], b), b)
    size = tier.file_size
    for _ in range(20):
        slots = [send(tier, t) for t in (a, b)]
    del slots
    assert tier.file_size <= 2 * size
    assert open_regions(tier) == []


def test_a_place_whose_bytes_are_moving_is_not_given_away(folder: Path, gate: Gate) -> None:
    tier = FileTier(folder, SMALL, gate)
    region, sent = tier.open(4 * PAGE), some(3 * PAGE)
    slot = send(tier, sent, 0, region)
    gate.shut()
    target = torch.empty_like(sent)
    tier.start_read(slot, target)
    with pytest.raises(TransferError, match="'t0' is on its way there"):
        tier.start_write(region, some(10), PAGE, "b")
    gate.gate.set()
    tier.wait_read(slot, target)
    tier.close()


def test_a_dropped_source_lives_until_its_write_is_over(folder: Path, gate: Gate) -> None:
    tier = FileTier(folder, SMALL, gate)
    sent = some(3 * PAGE)
    expected, address = sent.clone(), sent.data_ptr()
    gate.shut()
    slot = tier.start_write(tier.open(4 * PAGE), sent, 0, "t")
    assert gate.reached.wait(10)
    del sent
    others = [some(3 * PAGE, i) for i in range(10)]  # one of them would get its memory
    assert address not in [t.data_ptr() for t in others]
    gate.gate.set()
    write_of(slot).wait()
    slot.is_written = True
    assert torch.equal(fetch(tier, slot, expected), expected)
    assert write_of(slot)._held is None
    tier.close()


def test_a_dropped_target_lives_until_its_read_is_over(folder: Path, gate: Gate) -> None:
    tier = FileTier(folder, SMALL, gate)
    sent = some(3 * PAGE)
    slot = send(tier, sent)
    target = torch.empty_like(sent)
    address = target.data_ptr()
    gate.shut()
    tier.start_read(slot, target)
    transfer = slot.reads[address]
    assert gate.reached.wait(10)
    del target, slot
    others = [some(3 * PAGE, i) for i in range(10)]
    assert address not in [t.data_ptr() for t in others]
    copies = [t.clone() for t in others]
    gate.gate.set()
    transfer.wait()
    assert all(map(torch.equal, others, copies))
    tier.close()


def test_what_nobody_waits_for_is_given_up(folder: Path, gate: Gate) -> None:
    tier = FileTier(folder, SMALL, gate)
    region = tier.open(64 * KIB)
    gate.shut()
    first = tier.start_write(region, some(PAGE), 0, "a")
    behind = [tier.start_write(region, some(PAGE), n * PAGE, f"b{n}") for n in (1, 2)]
    transfers = [write_of(slot) for slot in behind]
    del behind, region
    assert gate.reached.wait(10)
    gate.gate.set()
    for transfer in transfers:
        transfer.wait()
        assert "given up" in str(transfer.error)
    write_of(first).wait()
    assert write_of(first).error is None
    del first, transfers, transfer
    tier.settle()
    assert open_regions(tier) == []
    tier.close()


def test_a_region_is_not_free_while_its_bytes_move(folder: Path, gate: Gate) -> None:
    tier = FileTier(folder, SMALL, gate)
    gate.shut()
    slot = tier.start_write(tier.open(PAGE), some(PAGE), 0, "t")
    transfer = write_of(slot)
    assert gate.reached.wait(10)
    del slot
    assert tier.open(PAGE).offset == PAGE
    gate.gate.set()
    transfer.wait()
    del transfer
    tier.settle()
    assert tier.open(PAGE).offset == 0
    tier.close()


def test_settling_stops_all_that_moves(folder: Path, gate: Gate) -> None:
    tier = FileTier(folder, SMALL, gate)
    sent = some(64 * KIB)
    slot = send(tier, sent)
    gate.shut()
    targets = [torch.zeros_like(sent) for _ in range(3)]
    for target in targets:
        tier.start_read(slot, target)
    assert gate.reached.wait(10)
    threading.Timer(0.05, gate.gate.set).start()
    tier.settle()
    found = [t.clone() for t in targets]
    for target in targets:
        with pytest.raises(TransferError, match="given up"):
            tier.wait_read(slot, target)
    assert all(map(torch.equal, targets, found))
    assert torch.equal(fetch(tier, slot, sent), sent)
    tier.close()


def test_a_read_that_starts_again_takes_over(folder: Path, gate: Gate) -> None:
    """As with a retained graph whose first backward was interrupted between start and wait."""
    tier = FileTier(folder, SMALL, gate)
    sent = some(64 * KIB)
    slot, target = send(tier, sent), torch.empty_like(sent)
    gate.shut()
    tier.start_read(slot, target)
    first = slot.reads[target.data_ptr()]
    tier.start_read(slot, target)
    gate.gate.set()
    tier.wait_read(slot, target)
    assert torch.equal(target, sent)
    first.wait()
    assert "given up" in str(first.error)
    tier.close()


def test_an_interrupted_wait_leaves_everything_usable(
    folder: Path, gate: Gate, ctrl_c: Callable[[float], None]
) -> None:
    tier = FileTier(folder, SMALL, gate)
    sent = some(64 * KIB)
    gate.shut()
    slot = tier.start_write(tier.open(64 * KIB), sent, 0, "t")
    ctrl_c(0.1)
    with pytest.raises(KeyboardInterrupt):
        tier.wait_written(slot, sent)
    assert tier.out.traffic.stalled > 0
    gate.gate.set()
    tier.wait_written(slot, sent)
    assert torch.equal(fetch(tier, slot, sent), sent)
    del slot
    assert tier.open(PAGE).offset == 0
    tier.close()


def test_threads_share_a_tier(tier: FileTier) -> None:
    def work(seed: int) -> None:
        try:
            for i in range(10):
                sent = some(40 * KIB + seed, seed * 100 + i)
                assert torch.equal(fetch(tier, send(tier, sent), sent), sent)
        except BaseException as error:
            failed.append(error)

    failed: list[BaseException] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert open_regions(tier) == []


def in_a_fork(act: object) -> int:
    """Runs a function in a forked process; returns its exit code, 0 if it returns True."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(20)  # nothing may hang
            code = 0 if act() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_process_has_a_file_of_its_own(tier: FileTier) -> None:
    sent = some(PAGE)
    slot = send(tier, sent)
    fd = space_of(tier).file._fd

    def child() -> bool:
        own = some(PAGE, 1)  # OpenMP, which larger tensors take, does not survive a fork
        mine = send(tier, own)
        again = torch.equal(fetch(tier, mine, own), own)
        with pytest.raises(TransferError, match="forked"):
            fetch(tier, slot, sent)
        with pytest.raises(TransferError, match="forked"):
            tier.start_write(slot.region, own, 0, "t")
        return again and os.fstat(space_of(tier).file._fd).st_ino != inode

    inode = os.fstat(fd).st_ino
    assert in_a_fork(child) == 0
    assert torch.equal(fetch(tier, slot, sent), sent)


def test_a_fork_while_bytes_move(folder: Path, gate: Gate) -> None:
    """The child neither hangs nor disturbs its parent."""
    tier = FileTier(folder, SMALL, gate)
    sent = some(PAGE)
    gate.shut()
    slot = tier.start_write(tier.open(PAGE), sent, 0, "t")
    assert gate.reached.wait(10)

    def child() -> bool:
        gate.gate.set()
        with pytest.raises(TransferError, match="forked"):
            tier.wait_written(slot, sent)
        tier.settle()
        own = some(PAGE)
        return torch.equal(fetch(tier, send(tier, own), own), own)

    assert in_a_fork(child) == 0
    gate.gate.set()
    tier.wait_written(slot, sent)
    assert torch.equal(fetch(tier, slot, sent), sent)
    tier.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("direction", ["write", "read"])
def test_a_dead_thread_is_an_error(
    tier: FileTier, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Transfer) -> None:
        raise SystemExit

    sent = some(PAGE)
    slot = send(tier, sent)
    with monkeypatch.context() as patch:
        patch.setattr(Transfer, "run", die)
        with pytest.raises(TransferError, match="has died") as caught:
            send(tier, sent) if direction == "write" else fetch(tier, slot, sent)
    assert caught.value.direction == direction
    slot = send(tier, sent)
    assert torch.equal(fetch(tier, slot, sent), sent)


def test_a_system_without_threads_is_an_error(
    tier: FileTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sent = some(PAGE)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(TransferError, match=r"'t0' could not be written .*start new thread"):
            send(tier, sent)
    assert torch.equal(fetch(tier, send(tier, sent), sent), sent)


def test_an_error_can_be_sent_to_another_process(tier: FileTier) -> None:
    sent = some(PAGE)
    slot = send(tier, sent)
    flip(tier, slot.offset)
    with pytest.raises(TransferError) as caught:
        fetch(tier, slot, sent)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.tensor) == (str(caught.value), "t0")


def test_a_closed_tier_leaves_nothing(folder: Path) -> None:
    tier = FileTier(folder, SMALL, FaultyCalls())
    slot = send(tier, some(100))
    thread = tier.out.thread._thread
    assert thread is not None
    fd = space_of(tier).file._fd
    tier.close()
    thread.join(10)
    assert not thread.is_alive()
    assert os.fstat(fd).st_nlink == 0
    del slot
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
