"""Data parallel training with torch's own optimizers: two processes, gloo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import roam
from roam.core.budget import MARGIN
from roam.step import rank_agreement
from tests.helpers import assert_equal, compiler, flat, snapshot

RANKS = 2
FREE = 10**9  # bytes
Wrap = Callable[[nn.Module, Callable[[Any], Any]], Any]


class Block(nn.Module):
    """A class of its own: dynamo compiles no frame of torch.nn, as which DDP and FSDP call it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu().square()  # type: ignore[no-any-return]


class Net(nn.Module):
    """Two of the weights are larger than a bucket of DDP's, 1 MiB."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(8, 520), (520, 520), (520, 520), (520, 4)]
        self.blocks = nn.ModuleList(Block(*size) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def compiled_inside(model: nn.Module, compile_: Callable[[Any], Any]) -> Any:
    return DistributedDataParallel(compile_(model))


def compiled_outside(model: nn.Module, compile_: Callable[[Any], Any]) -> Any:
    """Dynamo takes the model apart into a graph for each bucket of gradients."""
    return compile_(DistributedDataParallel(model, bucket_cap_mb=1))


def sharded(model: Any, compile_: Callable[[Any], Any]) -> Any:
    mesh = init_device_mesh("cpu", (RANKS,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return compile_(model)


WRAPS: dict[str, Wrap] = {
    "DDP of the compiled model": compiled_inside,
    "the compiled DDP": compiled_outside,
    "FSDP2": sharded,
}


def train(rank: int, wrap: Wrap, backend: str) -> list[Any]:
    """The losses and the weights of a few steps, each rank with batches of its own."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Net()
    run = wrap(model, compiler(backend))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found: list[Any] = []
    for step in range(3):
        torch.manual_seed(10 * step + rank)
        loss = run(torch.randn(6, 8)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        weights = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
        found += snapshot([loss, weights])
    return found


def limits(rank: int, wrap: Wrap) -> list[int]:
    """What a budget "auto" leaves to each graph, if the second rank has twice as much free."""
    with patch.object(rank_agreement, "free_bytes", lambda device: (1 + rank) * FREE):
        run_auto(wrap)
    return [g.recomputed.limit for g in roam.report().graphs if g.recomputed is not None]


def run_auto(wrap: Wrap) -> None:
    torch._dynamo.reset()
    roam.reset_report()
    run = wrap(Net(), compiler("roam", options={"budget": "auto", "lowering": "aten"}))
    run(torch.randn(6, 8)).square().mean().backward()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS
    )
    results = {}
    for name, wrap in WRAPS.items():
        expected = train(rank, wrap, "aot_eager")
        roam.reset_report()
        found = train(rank, wrap, "step")
        report = roam.report()
        results[name] = (found, expected, report.planned, report.unplanned)
    found = {name: limits(rank, wrap) for name, wrap in WRAPS.items()}
    assert all(found.values())
    assert {limit for each in found.values() for limit in each} == {int((1 - MARGIN) * FREE)}
    torch.save(results, f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_stock_optimizers(tmp_path: Path) -> None:
    """aot_eager's bits on each rank, and one model on all of them."""
    multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(RANKS))
    for name in WRAPS:
        for found, expected, planned, unplanned in (first[name], second[name]):
            assert_equal(found, expected)
            assert planned >= 1, name
            assert unplanned == 0, name
        ours, theirs = (flat(ranks[name][0])[-8:] for ranks in (first, second))
        assert_equal(ours, theirs)
