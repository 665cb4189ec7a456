"""Disks that fail under the states of an optimizer: what is named, and that nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from roam.core.errors import TierFullError, TransferError
from roam.runtime.stored_tensor import StoredTensor
from tests.behaviour.small_nets import rows
from tests.behaviour.stored_training import A_MATRIX, Training, to
from tests.helpers import snapshot
from tests.runtime.faults import Fault, FaultyCalls, fail_as


def test_a_full_disk_is_told_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(FaultyCalls):
        def allocate(self, fd: int, offset: int, nbytes: int) -> None:
            if offset + nbytes > 2**16:
                raise OSError(28, "No space left on device")
            super().allocate(fd, offset, nbytes)

    fail_as(Full(), folder, monkeypatch)
    training = Training()
    with pytest.raises(TierFullError, match="KiB more are needed"):
        training.optimizer.keep_states_in(to(folder))


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.FLIP])
def test_a_state_that_does_not_come_back_is_named_and_its_parameter_unchanged(
    fault: Fault, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_as(calls := FaultyCalls(), folder, monkeypatch)
    training = Training(offload={"states": to(folder)})
    training.steps(2)
    saved = training.optimizer.state_dict()
    before = dict(zip(*_named(training.model), strict=True))
    # states are not read in the same order in every run, so only those of matrices count
    calls.arm("read", 4, fault, smallest=A_MATRIX)
    with pytest.raises(TransferError, match=r"model\.\d\.\w+\.weight\.exp_avg") as raised:
        training.run(rows()).backward()
    name = raised.value.tensor.partition(".exp_avg")[0]
    assert torch.equal(dict(training.model.named_parameters())[name], before[name])
    assert raised.value.direction == "read"
    training.optimizer.step()
    training.optimizer.load_state_dict(saved)  # the way out, if the file has other bytes
    training.steps(1)


def test_a_write_that_fails_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters that were updated before the error have the states of their updates."""
    fail_as(calls := FaultyCalls(), folder, monkeypatch)
    training = Training(offload={"states": to(folder)})
    training.steps(1)
    calls.arm("write", 6, Fault.EIO)
    torch.manual_seed(1)
    with pytest.raises(TransferError, match="could not be written"):
        training.run(rows() + 1).backward()
    states = training.optimizer.state
    done = [p for p in training.model.parameters() if states[p]["step"].item() == 2]
    assert 0 < len(done) < len(states)
    reference = Training()
    reference.steps(2)
    names = {p: n for n, p in training.model.named_parameters()}
    twins = dict(reference.model.named_parameters())
    for p in done:
        twin = reference.optimizer.state[twins[names[p]]]
        for key, x in states[p].items():
            found = x.load() if isinstance(x, StoredTensor) else x
            assert torch.equal(found, twin[key]), (names[p], key)
    training.optimizer.step()  # ends the mini-batch for those that were updated
    training.steps(1)
    assert {states[p]["step"].item() for p in done} == {3}


def _named(model: nn.Module) -> tuple[list[str], list[Tensor]]:
    pairs = list(model.named_parameters())
    return [n for n, _ in pairs], snapshot([p for _, p in pairs])
