"""What people fall into, each with an error that says what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from roam.core.errors import (
    ClippingWarning,
    DataParallelError,
    GradScalerError,
    HyperparameterError,
    LateChangeWarning,
    LostParameterError,
    MicroBatchError,
    MidBatchError,
    OptimizerWarning,
    SecondBackwardError,
    SparseGradientError,
    UnsummedWarning,
)
from roam.optim import AdamA, OptimizerError
from tests.optim.reference import backward, batches, mlp, same_parameters, twin


def accumulate(model: nn.Module, n: int, **how: Any) -> AdamA:
    return AdamA(model.named_parameters(), mode="accumulate", micro_batches=n, **how)


def test_a_second_backward_in_release_mode() -> None:
    model = mlp()
    optimizer = AdamA(model.named_parameters())
    first, second = batches(2)
    backward(model, first)
    with pytest.raises(SecondBackwardError, match=r"2\.bias.*step\(\).*accumulate"):
        backward(model, second)
    optimizer.step()
    backward(model, second)


def test_a_second_backward_through_the_same_graph_is_noticed() -> None:
    """By autograd, which sees that the weights are not those of the forward any more."""
    model = mlp()
    optimizer = AdamA(model.parameters())
    loss = model(batches(1)[0]).square().mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_reader_that_comes_too_late_is_noticed() -> None:
    """`w.detach()` is read after w's own gradient was complete, and w updated."""
    w = nn.Parameter(torch.ones(2, 2))
    x = torch.ones(2, 2, requires_grad=True)
    optimizer = AdamA([w])
    early = x.sin() @ w.detach()  # its backward runs last
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (early.exp() * w).sum().backward()
    assert float(optimizer.state_of(w)["step"]) == 1


def test_accumulating_in_release_mode() -> None:
    with pytest.raises(HyperparameterError, match="mode='accumulate'"):
        AdamA(mlp().parameters(), micro_batches=4)
    optimizer = AdamA(mlp().parameters())
    with pytest.raises(HyperparameterError, match="mode='accumulate'"):
        optimizer.micro_batches = 2


@pytest.mark.parametrize("n", [0, 1.5, "2"])
def test_a_number_of_micro_batches_that_is_none(n: Any) -> None:
    """One and a half would scale every gradient, and no step() would say so."""
    with pytest.raises(HyperparameterError, match="a whole number"):
        accumulate(mlp(), n)


def test_step_after_three_of_four_micro_batches() -> None:
    model = mlp()
    expected = twin(model)
    data = batches(4)
    optimizers = accumulate(model, 4), accumulate(expected, 4)
    for x in data[:3]:
        backward(model, x)
    with pytest.raises(MicroBatchError, match="3 of 4"):
        optimizers[0].step()
    backward(model, data[3])  # nothing was lost
    optimizers[0].step()
    for x in data:
        backward(expected, x)
    optimizers[1].step()
    same_parameters(model, expected)


def test_a_backward_too_many() -> None:
    model = mlp()
    optimizer = accumulate(model, 2)
    for x in batches(2):
        backward(model, x)
    with pytest.raises(SecondBackwardError, match=r"2\.bias.*2 backwards"):
        backward(model, batches(1)[0])
    optimizer.step()


def test_a_short_last_mini_batch() -> None:
    model = mlp()
    optimizer = accumulate(model, 4)
    optimizer.micro_batches = 1
    backward(model, batches(1)[0])
    with pytest.raises(MidBatchError, match="micro_batches"):
        optimizer.micro_batches = 4
    optimizer.step()
    optimizer.micro_batches = 4


@pytest.mark.parametrize("mode", ["release", "accumulate"])
def test_a_checkpoint_in_the_middle(mode: Any) -> None:
    model = mlp()
    optimizer = AdamA(model.parameters(), mode=mode)
    optimizer.state_dict()
    backward(model, batches(1)[0])
    with pytest.raises(MidBatchError, match=r"state_dict.*step\(\)"):
        optimizer.state_dict()
    optimizer.step()
    optimizer.state_dict()


def test_sparse_gradients() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = AdamA(table.named_parameters())
    with pytest.raises(SparseGradientError, match=r"weight.*sparse=False"):
        table(torch.tensor([1, 2])).sum().backward()
    assert not optimizer.state


@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(unscale: bool) -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(batches(1)[0]).mean()).backward()
    if unscale:
        scaler.unscale_(optimizer)
    with pytest.raises(GradScalerError, match="bfloat16"):
        scaler.step(optimizer)


def test_a_grad_scaler_that_is_off_is_none() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    scaler.scale(model(batches(1)[0]).mean()).backward()
    scaler.step(optimizer)
    optimizer.state_dict()


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_distributed_data_parallel() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    wrapped = DistributedDataParallel(model)
    for _ in range(2):  # the second backward ran, and every rank trained by itself
        with pytest.raises(DataParallelError, match="AdamW"):
            backward(wrapped, batches(1)[0])
    assert not optimizer.state


@pytest.mark.usefixtures("one_rank")
def test_another_model_in_data_parallel_is_no_offence() -> None:
    other = DistributedDataParallel(mlp())
    model = mlp()
    optimizer = AdamA(model.parameters())
    backward(model, batches(1)[0])
    backward(other, batches(1)[0])
    optimizer.step()


def test_two_optimizers_of_one_parameter() -> None:
    model = mlp()
    old = AdamA(model.named_parameters())
    new = AdamA(model.parameters())
    backward(model, batches(1)[0])
    assert old.holds(model[0].weight) is False
    assert new.holds(model[0].weight) is True
    with pytest.raises(LostParameterError, match=r"0\.weight"):
        old.step()
    new.step()
    assert not old.state


def test_all_of_them_are_one_family() -> None:
    for error in (DataParallelError, GradScalerError, HyperparameterError,
                  LostParameterError, MicroBatchError, MidBatchError,
                  SecondBackwardError, SparseGradientError):  # fmt: skip
        assert issubclass(error, OptimizerError)
    for warning in (ClippingWarning, LateChangeWarning, UnsummedWarning):
        assert issubclass(warning, OptimizerWarning)
