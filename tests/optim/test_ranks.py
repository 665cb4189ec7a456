"""Two processes that train one model: what sums gradients before they are folded, and what not."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import AdamW, Optimizer

from roam.core.errors import DataParallelError, HyperparameterError, UnsummedWarning
from roam.optim import AdamA, SlimAdamA
from tests.helpers import unfused
from tests.optim.folds_on_ranks import combine_states
from tests.optim.reference import backward, batches, mlp

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
RANKS = 2


def summed(gradient: Tensor) -> Tensor:
    gradient = gradient.clone()
    dist.all_reduce(gradient)
    return gradient / RANKS


def step(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    backward(model, x)
    optimizer.step()
    optimizer.zero_grad()


def summing_step(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    backward(model, x)
    for p in model.parameters():
        if p.grad is not None:
            p.grad = summed(p.grad)
    optimizer.step()
    optimizer.zero_grad()


def sums_by_hand(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    found = torch.autograd.grad(model(x).square().mean(), [*model.parameters()])
    for p, gradient in zip(model.parameters(), found, strict=True):
        p.grad = summed(gradient)
    optimizer.step()


def trained(
    optimizer: Callable[..., Optimizer],
    how: Callable[..., None] = step,
    prepare: Callable[[nn.Sequential], Any] = lambda model: None,
    compiled: bool = False,
) -> list[Tensor]:
    """The parameters after three steps, of other data on every rank."""
    model = mlp()
    prepare(model)
    chosen = optimizer(model.named_parameters(), lr=1e-2)
    run = unfused(model, optimizer=chosen) if compiled else model
    for x in batches(3, seed=dist.get_rank()):
        how(run, chosen, x)
    return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]


def sum_in_hooks(model: nn.Sequential) -> None:
    for p in model.parameters():
        p.register_hook(summed)


def shard(model: nn.Sequential) -> None:
    mesh = init_device_mesh("cpu", (RANKS,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(map(torch.equal, found, expected))


def check(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # each optimizer looks through all objects for models that wrap its parameters
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS)
    expected = trained(lambda params, lr: AdamW(params, lr=lr, fused=True), summing_step)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnsummedWarning)
        same(trained(AdamA, step, sum_in_hooks), expected)
        same(trained(AdamA, step, sum_in_hooks, compiled=True), expected)
        same(trained(AdamA, sums_by_hand), expected)
        expected = trained(lambda params, lr: AdamW(params, lr=lr, fused=True), step, shard)
        same(trained(AdamA, step, shard), expected)
        same(trained(AdamA, step, shard, compiled=True), expected)
    with pytest.raises(DataParallelError):
        trained(AdamA, step, replicate)
    with pytest.raises(HyperparameterError, match=r"0\.weight.*DTensor"):
        trained(lambda params, lr: SlimAdamA(params, {"0.weight": (1,)}, lr), step, shard)
    with pytest.warns(UnsummedWarning, match=r"2 ranks.*fully_shard.*register_hook") as caught:
        trained(AdamA, summing_step)
    assert len(caught) == 1
    combine_states()
    dist.destroy_process_group()


def test_two_ranks(tmp_path: Path) -> None:
    """All in one meeting of two processes, which take their time to start.

    Also what folds_on_ranks.py checks: gradients folded on each rank, and states combined.
    """
    mp.spawn(check, (f"file://{tmp_path / 'meeting'}",), nprocs=RANKS)
