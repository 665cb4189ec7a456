"""Tensors leave for a file and come back as they were, and nothing stays behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roam.core.errors import TierError, TierFullError, TransferError
from roam.core.machine import PAGE
from roam.runtime import file_tier as module
from roam.runtime.file_tier import FileTier, file_tier, forget
from roam.runtime.tier_file import whole_pages
from roam.runtime.tier_settings import SECTOR, Settings, Verify
from tests.runtime.faults import KIB, SMALL, flip, on_disk, swap
from tests.runtime.moving import fetch, send, some

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
]


def raw(tensor: Tensor) -> bytes:
    return bytes(module._bytes(tensor))


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


@pytest.mark.parametrize("verify", [Verify.SECTORS, Verify.NOTHING])
def test_what_nobody_compares_is_not_found(folder: Path, verify: Verify) -> None:
    tier = FileTier(folder, Settings(verify=verify))
    sent = some(40 * KIB)
    slot = send(tier, sent)
    flip(tier, slot.offset + 2 * SECTOR + 8)
    assert not torch.equal(fetch(tier, slot, sent), sent)
    tier.settings = Settings()
    fetch(tier, slot, sent)  # it was written without a fingerprint of all bytes
    tier.close()


def test_a_word_of_each_sector_tells_sectors_apart(folder: Path) -> None:
    tier = FileTier(folder, Settings(verify=Verify.SECTORS))
    sent = some(40 * KIB + 100)
    for sector in range(sent.nbytes // SECTOR):
        slot = send(tier, sent)
        swap(tier, slot.offset + sector * SECTOR, slot.offset + 3 * SECTOR, SECTOR)
        if sector != 3:
            with pytest.raises(TransferError, match="not those that were sent"):
                fetch(tier, slot, sent)
    slot = send(tier, sent)
    assert torch.equal(fetch(tier, slot, sent), sent)
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


@pytest.mark.parametrize(("there", "back"), [(0, 0), (64, 64), (64, 576), (64, 128), (1, 3)])
def test_only_the_ends_are_copied_where_addresses_fit(
    tier: FileTier, there: int, back: int
) -> None:
    """Memory at the same place of a unit as the source's, or any for a write, needs no copy."""
    nbytes, unit = 70 * KIB, tier.way.unit
    room = torch.empty(2 * nbytes + 4 * PAGE, dtype=torch.uint8)
    start = -room.data_ptr() % PAGE
    sent, target = room[start + there :][:nbytes], room[start + whole_pages(nbytes + PAGE) :]
    sent.copy_(some(nbytes))
    expected, target = sent.clone(), target[back:][:nbytes]
    slot = send(tier, sent)
    assert tier.out.traffic.copied < 2 * unit
    tier.start_read(slot, target)
    tier.wait_read(slot, target)
    assert torch.equal(target, expected)
    if (back - there) % unit == 0:
        assert tier.back.traffic.copied < 2 * unit
    else:
        assert tier.back.traffic.copied == nbytes


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
    with pytest.raises(ValueError, match="bytes, sectors, nothing"):
        Settings(verify=True)
    tier.close()


def test_one_tier_for_each_folder(folder: Path) -> None:
    found = file_tier(folder, SMALL)
    (folder / "link").symlink_to(folder)
    assert file_tier(str(folder / "link")) is found
    assert found.settings == SMALL
    assert file_tier(folder, Settings(write_pace=5.0)).settings == Settings(write_pace=5.0)
    (folder / "link").unlink()
    module.settle()
    forget()
    assert file_tier(folder) is not found
    forget()
    with pytest.raises(TierError, match="no such folder"):
        file_tier(folder / "missing")
