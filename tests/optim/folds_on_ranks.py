"""Ranks that fold their own gradients and combine states: one process with all micro-batches."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from roam.core.errors import (
    GraphsDifferError,
    HyperparameterError,
    MissingRankError,
    RanksDifferError,
)
from roam.optim import SGD, AdamA, AdamMini, GaLore, Lion, Muon, Scion, SlimAdamA
from roam.optim.adam_mini import Shared
from tests.helpers import unfused

RANKS, STEPS = 2, 3
LARGE = 100  # bytes: weights are sent in the backward, and biases after it
MINI = {"2.weight": Shared((1,), heads=2), "0.weight": Shared((1,))}
# a small β2, so that what v was before counts
ADAM: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.5)}
RULES: dict[str, Callable[..., Any]] = {
    "AdamA": lambda p, **how: AdamA(p, **ADAM, **how),
    "AdamA, invariant": lambda p, **how: AdamA(p, **ADAM, batch_invariant=True, **how),
    "AdamA, clipped": lambda p, **how: AdamA(p, **ADAM, max_norm=0.1, **how),
    "SlimAdamA": lambda p, **how: SlimAdamA(p, {"0.weight": (1,)}, **ADAM, **how),
    "AdamMini": lambda p, **how: AdamMini(p, MINI, **ADAM, **how),
    "SGD": lambda p, **how: SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1, **how),
    "Lion": lambda p, **how: Lion(p, lr=1e-2, betas=(0.9, 0.9), **how),
    "Muon": lambda p, **how: Muon(p, lr=1e-2, nesterov=False, **how),
    # another subspace in the third step, and none of the rare layer: rank 0 may not have it
    "GaLore": lambda p, **how: GaLore(p, **ADAM, rank=4, update_proj_gap=2, **how),
    "Scion": lambda p, **how: Scion(p, lr=1e-2, **how),
}


class Net(nn.Module):
    """The last layer gets gradients from some batches only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rare = nn.Linear(4, 4)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
        self.double()

    def forward(self, x: Tensor, rare: bool) -> Tensor:
        y = self.body(x)
        return (self.rare(y) if rare else y).square().mean()  # type: ignore[no-any-return]


def batches(step: int, rank: int, n: int) -> Iterator[tuple[Tensor, bool]]:
    """Micro-batches of a rank. The rare layer is used in the second step, by rank 1."""
    for i in range(n):
        g = torch.Generator().manual_seed(100 * step + 10 * rank + i)
        x = torch.randn(6, 6, generator=g, dtype=torch.float64)
        yield x, step == 1 and rank == 1


def named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name.removeprefix("body."), p) for name, p in model.named_parameters()]


def trained(
    make: Callable[..., Any],
    n: int,
    *,
    alone: bool,
    compiled: bool = False,
    early: list[int] | None = None,
) -> Any:
    """The optimizer and the model after a few steps: on this rank, or alone with all batches.

    early: gets what was sent in all before each step().
    """
    model = Net()
    ranks = range(RANKS) if alone else [dist.get_rank()]
    group = {} if alone else {"process_group": dist.group.WORLD}
    optimizer = make(named(model), mode="accumulate", micro_batches=n * len(ranks), **group)
    run = unfused(model, optimizer=optimizer) if compiled else model
    if not alone:
        optimizer.ranks.small = LARGE
    for step in range(STEPS):
        for rank in ranks:
            for x, rare in batches(step, rank, n):
                run(x, rare).backward()
        if early is not None:
            early.append(optimizer.ranks.sent)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer, model


def close(ours: nn.Module, theirs: nn.Module) -> None:
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all((a - b).abs().max() <= 1e-12 for a, b in pairs)


def elements(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def combine_states() -> None:
    """Checks all of it in a group of two processes, of which starting takes long: test_ranks.py's.

    The last check leaves the ranks without an answer of each other.
    """
    gc.freeze()  # what was imported since the meeting began
    for name, make in RULES.items():
        for n in (1, 4) if name == "AdamA" else (2,):
            early: list[int] = []
            optimizer, ours = trained(make, n, alone=False, early=early)
            _, theirs = trained(make, n, alone=True)
            close(ours, theirs)
            if name == "AdamA":  # m and v, once a step, whatever n is; the rare layer's in one
                body, rare = map(elements, (ours.body, ours.rare))
                assert optimizer.ranks.sent == 2 * (STEPS * body + rare)
                assert early[0] == 2 * (5 * 6 + 4 * 5)  # the weights, in the backward
    _, ours = trained(RULES["AdamA"], 2, alone=False, compiled=True)
    _, theirs = trained(RULES["AdamA"], 2, alone=True)
    close(ours, theirs)
    for name in ("AdamA", "SlimAdamA"):
        codes(lambda p, name=name, **how: RULES[name](p, state_dtype="int8", **how))
    refuses()
    stops()


def codes(make: Callable[..., Any]) -> None:
    """Codes of 8 bits round, by less than a tenth of the way, and on all ranks to the same."""
    ours, theirs = (trained(make, 2, alone=alone)[1] for alone in (False, True))
    for a, b, start in zip(ours.parameters(), theirs.parameters(), Net().parameters(), strict=True):
        assert (a - b).norm() <= 0.1 * (b - start).norm()
        every = [torch.empty_like(a) for _ in range(RANKS)]
        dist.all_gather(every, a.detach())
        assert torch.equal(*every)


def refuses() -> None:
    group: Any = dist.group.WORLD
    params = Net().body.parameters
    with pytest.raises(HyperparameterError, match=r"mode='release'.*mode='accumulate'"):
        AdamA(params(), process_group=group)
    other = Net()
    if dist.get_rank() == 1:
        with torch.no_grad():
            other.rare.bias[2] += 1
    with pytest.raises(RanksDifferError, match=r"rare\.bias: rank 1 has other values"):
        AdamA(other.named_parameters(), mode="accumulate", process_group=group)


def stops() -> None:
    """Ranks that compile different graphs, or nothing, get an error in place of waiting."""
    torch._dynamo.reset()
    model, rank = Net(), dist.get_rank()
    if rank == 1:
        model.body[1] = nn.Sigmoid()
    _first, run = folded(model, dist.group.WORLD)
    batch = next(batches(0, rank, 1))
    with pytest.raises(GraphsDifferError, match=r"rank 1 runs .*sigmoid.* where .* runs .*tanh"):
        run(*batch)
    _second, run = folded(Net(), dist.new_group(timeout=timedelta(seconds=0.5)))
    if rank == 0:  # the other rank might as well have ended
        with pytest.raises(MissingRankError, match=r"rank 1 compiled no graph within 0:00:00\.5"):
            run(*batch)


def folded(model: nn.Module, group: Any) -> Any:
    optimizer = AdamA(named(model), mode="accumulate", process_group=group)
    return optimizer, unfused(model, optimizer=optimizer)
