"""A tensor that stays in a file: whatever goes wrong, its newest value is somewhere."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch
from torch import Tensor

from roam.core.errors import OptimizerCopyError, TransferError
from roam.passes.transfer_ops import LOAD_START, LOAD_WAIT, STORE_START, STORE_WAIT
from roam.runtime import stored_ops as stored_ops  # registers what the ops run
from roam.runtime.file_tier import FileTier
from roam.runtime.stored_tensor import StoredTensor
from roam.runtime.tickets import issue
from tests.runtime.faults import Fault, FaultyCalls

SHAPE = (37, 61)  # no whole sectors


@pytest.fixture
def calls() -> FaultyCalls:
    return FaultyCalls()


@pytest.fixture
def stored(tier: FileTier) -> StoredTensor:
    return StoredTensor(tier, "w.exp_avg", SHAPE, (61, 1), torch.float32)


def value(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_it_is_zero_at_first_and_nothing_is_read(stored: StoredTensor, tier: FileTier) -> None:
    assert torch.equal(stored.load(), torch.zeros(SHAPE))
    assert tier.back.traffic.transfers == 0


def test_what_is_stored_is_loaded_whatever_its_layout(tier: FileTier) -> None:
    turned = StoredTensor(tier, "t", SHAPE, (1, 37), torch.bfloat16)
    expected = turned.empty().copy_(value(1))
    turned.store(expected)
    assert torch.equal(turned.load(), expected)
    assert turned.load().stride() == (1, 37)


def test_ops_load_and_store(stored: StoredTensor) -> None:
    stored.store(value(1))
    known = issue(stored)
    x = LOAD_WAIT(LOAD_START(known, SHAPE, (61, 1), torch.float32), known)
    x.add_(1)
    STORE_START(x, known)
    STORE_WAIT(x, known)
    assert torch.equal(stored.load(), value(1) + 1)
    with pytest.raises(TransferError, match="a copy stands for nothing"):
        LOAD_START(known.clone(), SHAPE, (61, 1), torch.float32)


def test_a_change_that_nobody_wrote_is_in_memory(stored: StoredTensor) -> None:
    stored.store(value(1))
    x = stored.load()
    stored.hold(x)
    x.add_(1)
    del x
    assert torch.equal(stored.load(), value(1) + 1)


def test_a_write_that_nobody_waited_for_is_waited_for(stored: StoredTensor) -> None:
    stored.start_write(value(1))
    assert torch.equal(stored.load(), value(1))


@pytest.mark.parametrize("waits", [False, True])
def test_a_write_that_failed_leaves_the_value_in_memory(
    waits: bool, tier: FileTier, calls: FaultyCalls
) -> None:
    faulty = FileTier(tier.folder, tier.settings, calls)
    stored = StoredTensor(faulty, "w.exp_avg", SHAPE, (61, 1), torch.float32)
    stored.store(value(1))
    calls.arm("write", 0, Fault.EIO)
    changed = value(2)
    stored.start_write(changed)
    if waits:
        with pytest.raises(TransferError, match=r"w\.exp_avg.*could not be written"):
            stored.wait_written(changed)
    assert torch.equal(stored.load(), value(2))
    stored.store(value(2))
    assert torch.equal(stored.load(), value(2))
    faulty.close()


def test_a_flipped_bit_is_an_error_each_time_until_it_is_stored_anew(
    tier: FileTier, calls: FaultyCalls
) -> None:
    faulty = FileTier(tier.folder, tier.settings, calls)
    stored = StoredTensor(faulty, "w.exp_avg", SHAPE, (61, 1), torch.float32)
    calls.arm("write", 0, Fault.FLIP)
    stored.store(value(1))
    for _ in range(2):
        with pytest.raises(TransferError, match=r"w\.exp_avg.*not those that were sent"):
            stored.load()
    stored.store(value(1))
    assert torch.equal(stored.load(), value(1))
    faulty.close()


def test_reads_that_nobody_waited_for_are_given_up(stored: StoredTensor) -> None:
    stored.store(value(1))
    for _ in range(3):
        stored.start_read(stored.empty())
    stored.store(value(2))
    assert torch.equal(stored.load(), value(2))


def test_a_copy_has_the_value_and_a_place_of_its_own(stored: StoredTensor) -> None:
    stored.store(value(1))
    twin = copy.deepcopy(stored)
    stored.store(value(2))
    assert torch.equal(twin.load(), value(1))
    assert torch.equal(copy.deepcopy(StoredTensor(
        stored._tier, "z", SHAPE, (61, 1), torch.float32)).load(), torch.zeros(SHAPE))  # fmt: skip
    with pytest.raises(OptimizerCopyError, match="state_dict"):
        pickle.dumps(stored)


def test_a_forked_process_is_told_that_it_has_no_file(stored: StoredTensor) -> None:
    stored.store(value(1))
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            stored.load()
        except TransferError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(stored.load(), value(1))


def test_the_place_is_free_when_nobody_refers_to_it(tier: FileTier) -> None:
    for seed in range(3):
        made = StoredTensor(tier, "w", SHAPE, (61, 1), torch.float32)
        made.store(value(seed))
        size = tier.file_size
        del made
    assert tier.file_size == size
