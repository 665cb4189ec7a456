"""Folds of parameters that are used under checkpoints, whose forwards run again in the backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import roam
from roam.step.pending_forwards import Claims
from tests.helpers import random, unfused
from tests.releases import Block, Loss, Run, adama, assert_same, same_as_adamw


def layers(times: int, **how: Any) -> Loss:
    """One block, used several times, each use under a checkpoint (ALBERT)."""

    def loss(net: Any, run: Run) -> Tensor:
        x = random(5, 8).requires_grad_()
        for _ in range(times):
            x = checkpoint(run, x, **how)
        return x.square().mean()

    return loss


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("times", [1, 3])
def test_one_block_is_used_under_checkpoints(reentrant: bool, times: int) -> None:
    same_as_adamw(Block, layers(times, use_reentrant=reentrant))


@pytest.mark.usefixtures("shared_kernels")
def test_one_block_is_used_under_checkpoints_with_inductors_kernels() -> None:
    def compiled(net: Block, **options: Any) -> Run:
        return torch.compile(
            net, backend="roam" if options else "inductor", options=options or None
        )

    same_as_adamw(Block, layers(2, use_reentrant=True), compiled)


def test_a_block_under_checkpoints_and_outside_of_them() -> None:
    def loss(net: Any, run: Run) -> Tensor:
        inside = layers(2, use_reentrant=True)(net, run)
        return inside + run(random(5, 8)).square().mean() + 0.1 * net.first.weight.square().sum()

    same_as_adamw(Block, loss)


def test_a_checkpoint_that_is_not_torchs() -> None:
    """Its first pass is not known for one: what comes of it waits for `step()`."""

    class Rerun(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, run: Run, x: Tensor) -> Tensor:
            ctx.run = run
            ctx.save_for_backward(x)
            with torch.no_grad():
                return run(x)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = ctx.run(x)
            torch.autograd.backward(y, grad)
            return None, x.grad

    def loss(net: Any, run: Run) -> Tensor:
        x = random(5, 8).requires_grad_()
        for _ in range(2):
            x = Rerun.apply(run, x)
        return x.square().mean()

    same_as_adamw(Block, loss)


@pytest.mark.parametrize("reentrant", [False, True])
def test_micro_batches_of_one_block_under_checkpoints(reentrant: bool) -> None:
    """As without roam's graphs: the sum of a micro-batch is what is folded."""
    loss = layers(3, use_reentrant=reentrant)
    torch.manual_seed(0)
    reference = Block()
    model = copy.deepcopy(reference)
    how = {"mode": "accumulate", "micro_batches": 2}
    optimizers = adama(reference, **how), adama(model, **how)
    runs = reference, unfused(model, optimizer=optimizers[1])
    for i in range(6):
        with torch.no_grad():
            runs[1](random(5, 8))  # an evaluation, which no backward follows
        layers(3, use_reentrant=False)(reference, runs[0]).backward()
        loss(model, runs[1]).backward()
        for optimizer in optimizers if i % 2 else ():
            optimizer.step()
    assert_same(reference, model)


def test_checkpoints_fold_in_their_graphs_what_is_used_once() -> None:
    model = nn.Sequential(Block(), Block())
    optimizer = adama(model)
    for part in model:
        part.compile(backend="roam", options={"lowering": "aten", "optimizer": optimizer})
    for _ in range(2):
        x = random(5, 8).requires_grad_()
        for part in model:
            x = checkpoint(part, x, use_reentrant=True)
        x.square().mean().backward()
        assert all(p.grad is None for p in model.parameters())
        optimizer.step()
    assert roam.report().detours == {}
    assert dict(Claims.of(optimizer).unfolded(optimizer)) == {}
