"""Tensors leave for a file and come back as they were, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roam.core.errors import TierError, TierFullError, TransferError
from roam.runtime import file_tier as module
from roam.runtime.file_tier import FileTier, file_tier, forget
from roam.runtime.regions import Region
from roam.runtime.tier_file import PAGE, whole_pages
from roam.runtime.tier_folder import SystemCalls
from roam.runtime.transfers import Settings, Slot, Transfer
from tests.runtime.faults import KIB, SMALL, FaultyCalls, flip, on_disk, swap

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
]


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
def folder(tmp_path: Path) -> Iterator[Path]:
    yield on_disk(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def tier(folder: Path) -> Iterator[FileTier]:
    made = FileTier(folder, SMALL)
    yield made
    made.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.gate.set()


def some(nbytes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=generator)


def send(tier: FileTier, tensor: Tensor, offset: int = 0, region: Region | None = None) -> Slot:
    """Writes a tensor and waits for it."""
    region = region or tier.open(offset + whole_pages(tensor.nbytes))
    slot = tier.start_write(region, tensor, offset, f"t{offset}")
    tier.wait_written(slot, tensor)
    return slot


def fetch(tier: FileTier, slot: Slot, like: Tensor) -> Tensor:
    """Reads a tensor back and waits for it."""
    target = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    target.untyped_storage().fill_(0xAA)
    tier.start_read(slot, target)
    tier.wait_read(slot, target)
    return target


def raw(tensor: Tensor) -> bytes:
    return bytes(module._bytes(tensor))


def open_regions(tier: FileTier) -> list[int]:
    return sorted(r.number for r in tier._space._regions)


@pytest.fixture(scope="module")
def shared_tier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileTier]:
    made = FileTier(on_disk(tmp_path_factory.mktemp("shared")), SMALL)
    yield made
    made.close()


@settings(max_examples=150)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 40), max_size=4),
    order=st.randoms(use_true_random=False),
    shift=st.integers(0, 70),
    page=st.integers(0, 3),
)
def test_any_dense_tensor_comes_back(
    shared_tier: FileTier,
    dtype: torch.dtype,
    shape: list[int],
    order: object,
    shift: int,
    page: int,
) -> None:
    dims = list(range(len(shape)))
    order.shuffle(dims)
    size = torch.Size(shape).numel() * dtype.itemsize
    storage = some(size + shift * dtype.itemsize, seed=size)
    flat = storage.view(dtype) if storage.numel() else torch.empty(0, dtype=dtype)
    sent = flat[shift:].view([shape[d] for d in dims]).permute(sorted(dims, key=dims.__getitem__))
    assert list(sent.shape) == shape
    slot = send(shared_tier, sent, page * PAGE)
    back = fetch(shared_tier, slot, sent)
    assert raw(back) == raw(sent)


@pytest.mark.parametrize("nbytes", [32 * KIB - 1, 32 * KIB, 96 * KIB + 513])
def test_chunks_join(tier: FileTier, nbytes: int) -> None:
    sent = some(nbytes)
    assert torch.equal(fetch(tier, send(tier, sent), sent), sent)


@pytest.mark.parametrize(
    "unfit",
    [
        torch.zeros(8, 8)[:, :4],
        torch.zeros(1).expand(4),
        torch.zeros(4, dtype=torch.complex64).conj(),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(4, device="meta"),
    ],
)
def test_what_has_no_bytes_of_its_own_is_refused(tier: FileTier, unfit: Tensor) -> None:
    with pytest.raises(TransferError, match="'t' could not be written"):
        tier.start_write(tier.open(PAGE), unfit, 0, "t")
    target = torch.zeros(4)
    slot = send(tier, target)
    with pytest.raises(TransferError, match="'t0' could not be read back"):
        tier.start_read(slot, unfit)


@pytest.mark.parametrize("offset", [-PAGE, 1, 512, PAGE])
def test_a_place_outside_the_region_is_refused(tier: FileTier, offset: int) -> None:
    with pytest.raises(TransferError, match="no page-aligned place in a region of 4096"):
        tier.start_write(tier.open(PAGE), some(100), offset, "t")


def test_another_geometry_is_refused(tier: FileTier) -> None:
    sent = torch.randn(4, 6)
    slot = send(tier, sent)
    for wrong in (sent.t(), sent.view(6, 4), sent.view(torch.int32), sent[:2]):
        with pytest.raises(TransferError, match="is to be read as"):
            fetch(tier, slot, wrong.contiguous() if wrong.shape == (2, 6) else wrong)
    assert torch.equal(fetch(tier, slot, sent), sent)


def test_strides_of_single_elements_say_nothing(tier: FileTier) -> None:
    sent = torch.randn(3, 1, 5)
    slot = send(tier, sent)
    target = torch.empty_strided((3, 1, 5), (5, 77, 1))
    tier.start_read(slot, target)
    tier.wait_read(slot, target)
    assert torch.equal(target, sent)


def test_a_tensor_can_come_back_twice(tier: FileTier) -> None:
    """As with a retained graph; also both at once."""
    sent = some(50 * KIB)
    slot = send(tier, sent)
    targets = [torch.empty_like(sent) for _ in range(2)]
    for target in targets:
        tier.start_read(slot, target)
    for target in targets:
        tier.wait_read(slot, target)
        assert torch.equal(target, sent)


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


def test_a_place_can_be_written_again(tier: FileTier) -> None:
    region = tier.open(4 * PAGE)
    a, b = some(2 * PAGE, 1), some(100, 2)
    first = send(tier, a, 0, region)
    assert torch.equal(fetch(tier, first, a), a)
    second = send(tier, b, PAGE, region)
    assert torch.equal(fetch(tier, second, b), b)
    with pytest.raises(TransferError, match="'t4096' has been written over it"):
        fetch(tier, first, a)


def test_nobody_reads_before_the_write_was_waited_for(tier: FileTier) -> None:
    sent = some(100)
    slot = tier.start_write(tier.open(PAGE), sent, 0, "t")
    with pytest.raises(TransferError, match="waited"):
        fetch(tier, slot, sent)
    tier.wait_written(slot, sent)
    assert torch.equal(fetch(tier, slot, sent), sent)


def test_nobody_waits_for_a_read_that_was_not_started(tier: FileTier) -> None:
    sent = some(100)
    slot = send(tier, sent)
    with pytest.raises(TransferError, match="nobody has started"):
        tier.wait_read(slot, sent)


def test_start_and_wait_must_mean_the_same_memory(tier: FileTier) -> None:
    sent = some(100)
    slot = tier.start_write(tier.open(PAGE), sent, 0, "t")
    with pytest.raises(TransferError, match="different memory"):
        tier.wait_written(slot, sent.clone())


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
    region, expected, storage = tier.open(4 * PAGE), sent.clone(), sent.untyped_storage()
    freed = weakref.ref(storage)
    del storage
    address = sent.data_ptr()
    gate.shut()
    slot = tier.start_write(region, sent, 0, "t")
    del sent
    assert freed() is not None or slot.written._memory is not None or gate.reached.wait(10)
    others = [some(3 * PAGE, i) for i in range(10)]  # they would get its memory
    assert address not in [t.data_ptr() for t in others]
    gate.gate.set()
    slot.written.wait()
    slot.is_written = True
    assert torch.equal(fetch(tier, slot, expected), expected)
    assert slot.written._memory is None
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
    transfers = [slot.written for slot in behind]
    del behind, region
    assert gate.reached.wait(10)
    gate.gate.set()
    for transfer in transfers:
        transfer.wait()
        assert "given up" in str(transfer.error)
    first.written.wait()
    assert first.written.error is None
    del first, transfers, transfer
    tier.settle()
    assert open_regions(tier) == []
    tier.close()


def test_a_region_is_not_free_while_its_bytes_move(folder: Path, gate: Gate) -> None:
    tier = FileTier(folder, SMALL, gate)
    gate.shut()
    slot = tier.start_write(tier.open(PAGE), some(PAGE), 0, "t")
    transfer = slot.written
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


def test_an_interrupted_wait_leaves_everything_usable(folder: Path, gate: Gate) -> None:
    tier = FileTier(folder, SMALL, gate)
    sent = some(64 * KIB)
    gate.shut()
    slot = tier.start_write(tier.open(64 * KIB), sent, 0, "t")
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        tier.wait_written(slot, sent)
    gate.gate.set()
    tier.wait_written(slot, sent)
    assert torch.equal(fetch(tier, slot, sent), sent)
    del slot
    assert tier.open(PAGE).offset == 0
    tier.close()


def test_a_flipped_bit_is_found(tier: FileTier) -> None:
    sent = some(40 * KIB)
    slot = send(tier, sent)
    flip(tier, slot.offset + 12345, 3)
    with pytest.raises(TransferError, match="not those that were sent") as caught:
        fetch(tier, slot, sent)
    assert (caught.value.tensor, caught.value.direction) == ("t0", "read")
    assert (caught.value.offset, caught.value.errno) == (slot.offset, None)
    assert caught.value.folder == str(tier.folder)
    flip(tier, slot.offset + 12345, 3)
    assert torch.equal(fetch(tier, slot, sent), sent)


def test_swapped_slots_are_found(tier: FileTier) -> None:
    region = tier.open(8 * PAGE)
    a, b = some(4 * PAGE, 1), some(4 * PAGE, 2)
    slots = [send(tier, a, 0, region), send(tier, b, 4 * PAGE, region)]
    swap(tier, slots[0].offset, slots[1].offset, 4 * PAGE)
    for slot, sent in zip(slots, (a, b), strict=True):
        with pytest.raises(TransferError, match="not those that were sent"):
            fetch(tier, slot, sent)


def test_without_verification_nobody_looks(folder: Path) -> None:
    tier = FileTier(folder, Settings(verify=False))
    sent = some(40 * KIB)
    slot = send(tier, sent)
    flip(tier, slot.offset)
    assert not torch.equal(fetch(tier, slot, sent), sent)
    tier.settings = Settings()
    fetch(tier, slot, sent)  # it was written without a fingerprint
    tier.close()


def test_a_full_disk_is_refused_before_the_step(tier: FileTier) -> None:
    free = os.statvfs(tier.folder)
    with pytest.raises(TierFullError, match="free some of it"):
        tier.reserve(free.f_bavail * free.f_frsize * 4)
    sent = some(100)
    assert torch.equal(fetch(tier, send(tier, sent), sent), sent)


def test_what_is_reserved_needs_no_growth(tier: FileTier) -> None:
    tier.reserve(100 * PAGE)
    size = tier.file_size
    region = tier.open(100 * PAGE)
    assert (tier.file_size, region.nbytes) == (size, 100 * PAGE)


def test_traffic_is_counted(tier: FileTier) -> None:
    before = tier.out.traffic, tier.back.traffic
    sent = some(40 * KIB + 3)
    slot = send(tier, sent)
    fetch(tier, slot, sent)
    fetch(tier, slot, sent)
    out, back = tier.out.traffic.since(before[0]), tier.back.traffic.since(before[1])
    assert (out.transfers, out.nbytes) == (1, sent.nbytes)
    assert (back.transfers, back.nbytes) == (2, 2 * sent.nbytes)
    assert out.busy > 0
    assert out.stalled >= 0
    assert out.copied in (3, sent.nbytes) or not tier.way.direct


def test_a_pace_slows_a_tier_down(folder: Path) -> None:
    tier = FileTier(folder, SMALL)
    slept: list[float] = []
    for channel, rate in ((tier.out, 1e6), (tier.back, 2e6)):
        channel.pace = module_pace(rate, slept)
    sent = some(64 * KIB)
    slot = send(tier, sent)
    assert sum(slept) == pytest.approx(64 * KIB / 1e6)
    slept.clear()
    fetch(tier, slot, sent)
    assert sum(slept) == pytest.approx(64 * KIB / 2e6)
    tier.close()


def module_pace(rate: float, slept: list[float]) -> object:
    """A pace whose clock only its sleep moves."""
    from roam.runtime.pace import Pace

    return Pace(rate, clock=lambda: sum(slept), sleep=slept.append)


def test_settings_hold_for_both_directions(folder: Path) -> None:
    tier = FileTier(folder)
    tier.settings = Settings(write_pace=5.0, read_pace=7.0)
    assert (tier.out.pace.rate, tier.back.pace.rate) == (5.0, 7.0)
    with pytest.raises(ValueError, match="no multiple"):
        Settings(chunk=1000)
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
    fd = tier._space.file._fd

    def child() -> bool:
        own = some(PAGE, 1)  # OpenMP, which larger tensors take, does not survive a fork
        mine = send(tier, own)
        again = torch.equal(fetch(tier, mine, own), own)
        with pytest.raises(TransferError, match="forked"):
            fetch(tier, slot, sent)
        with pytest.raises(TransferError, match="forked"):
            tier.start_write(slot.region, own, 0, "t")
        return again and os.fstat(tier._space.file._fd).st_ino != inode

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


def test_one_tier_for_each_folder(folder: Path) -> None:
    found = file_tier(folder, SMALL)
    (folder / "link").symlink_to(folder)
    assert file_tier(str(folder / "link")) is found
    assert found.settings == SMALL
    assert file_tier(folder, Settings(verify=False)).settings == Settings(verify=False)
    (folder / "link").unlink()
    module.settle()
    forget()
    assert file_tier(folder) is not found
    forget()
    with pytest.raises(TierError, match="no such folder"):
        file_tier(folder / "missing")


def test_a_closed_tier_leaves_nothing(folder: Path) -> None:
    tier = FileTier(folder, SMALL, FaultyCalls())
    slot = send(tier, some(100))
    threads = [tier.out.thread._thread]
    fd = tier._space.file._fd
    tier.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert os.fstat(fd).st_nlink == 0
    del slot
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
