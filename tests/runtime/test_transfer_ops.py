"""Tensors leave and come back in graphs, through autograd, and with every hook on what is saved."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from roam.core.errors import TierError, TransferError
from roam.runtime import transfer_ops as ops
from roam.runtime.blocks import allocate, carve
from roam.runtime.file_tier import FileTier, file_tier, forget, settle
from tests.runtime.faults import SMALL, flip


@pytest.fixture
def tier(folder: Path) -> Iterator[FileTier]:
    yield file_tier(folder, SMALL)
    forget()


def away(tier: str, source: Tensor) -> Tensor:
    """Writes a tensor; returns its ticket."""
    region = ops.OPEN_SLOTS(tier, source.numel() * source.itemsize)
    started = ops.WRITE_START(source, region, 0, "source")
    return ops.WRITE_WAIT(source, started)


def there_and_back(tier: str, source: Tensor) -> Tensor:
    written = away(tier, source)
    target = ops.READ_START(written, source.shape, source.stride(), source.dtype)
    return ops.READ_WAIT(target, written)


class OnFile(torch.autograd.Function):
    """Returns -cos(x); the derivative, sin(x), waits in a file."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tier: str) -> Tensor:
        kept = x.sin()
        ctx.like = kept.shape, kept.stride(), kept.dtype
        ctx.save_for_backward(away(tier, kept))
        return x.cos().neg()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (written,) = ctx.saved_tensors
        target = ops.READ_START(written, *ctx.like)
        return grad * ops.READ_WAIT(target, written), None


def regions(tier: FileTier) -> list[int]:
    return sorted(r.offset for r in tier._space._regions) if tier._space else []


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_they_can_be_traced(tier: FileTier, mode: str) -> None:
    graph = make_fx(lambda x: there_and_back(tier.key, x) + 1, tracing_mode=mode)(
        torch.ones(17, 30).t()
    )
    for shape in [(17, 30), (5, 8)] if mode == "symbolic" else [(17, 30)]:
        x = torch.randn(shape).t()
        assert torch.equal(graph(x), x + 1)
    assert regions(tier) == []


def test_faked_they_touch_no_file(tier: FileTier) -> None:
    with FakeTensorMode():
        x = torch.empty(30, 17).t()
        back = there_and_back(tier.key, x)
        assert (back.shape, back.stride(), back.dtype) == (x.shape, x.stride(), x.dtype)
        out = torch.empty_like(x)
        written = away(tier.key, x)
        assert ops.READ_START_OUT(written, x.shape, x.stride(), x.dtype, out=out) is out
        assert (written.dtype, written.shape) == (torch.int64, (1,))
    assert tier.file_size == 0


def test_the_target_may_lie_in_an_arena(tier: FileTier) -> None:
    x = torch.randn(50, 20)
    block = allocate(3 * x.nbytes, x.device)
    block.fill_(9)
    out = carve(block, x.nbytes, x.dtype, x.shape, x.stride())
    written = away(tier.key, x)
    assert ops.READ_START_OUT(written, x.shape, x.stride(), x.dtype, out=out) is out
    assert ops.READ_WAIT(out, written) is out
    assert torch.equal(out, x)
    assert (block[: x.nbytes] == 9).all()
    assert (block[2 * x.nbytes :] == 9).all()
    with pytest.raises(TransferError, match="is to be read as"):
        ops.READ_START_OUT(written, x.shape, x.stride(), x.dtype, out=out.t())


@pytest.mark.parametrize("retain", [False, True])
def test_autograd_carries_the_tickets(tier: FileTier, retain: bool) -> None:
    x = torch.randn(40, 30, requires_grad=True)
    y = OnFile.apply(x, tier.key)
    for _ in range(2 if retain else 1):
        (grad,) = torch.autograd.grad(y.sum(), x, retain_graph=retain)
        assert torch.equal(grad, x.sin())
    assert regions(tier) == ([0] if retain else [])
    del y
    assert regions(tier) == []


def test_pending_forwards_and_dropped_graphs(tier: FileTier) -> None:
    x = torch.randn(40, 30, requires_grad=True)
    first, second, third = (OnFile.apply(x * n, tier.key) for n in (1, 2, 3))
    assert len(regions(tier)) == 3
    del second
    assert len(regions(tier)) == 2
    size = tier.file_size
    fourth = OnFile.apply(x * 4, tier.key)
    assert tier.file_size == size  # it took the dropped one's place
    for n, y in ((3, third), (1, first), (4, fourth)):
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(grad, n * (n * x).sin())
    del first, third, fourth, y
    gc.collect()
    assert regions(tier) == []


def test_an_exception_in_the_backward_is_the_transfers_own(tier: FileTier) -> None:
    x = torch.randn(40, 30, requires_grad=True)
    y = OnFile.apply(x, tier.key)
    flip(tier, 777)
    with pytest.raises(TransferError, match="'source' could not be read back") as caught:
        y.sum().backward()
    assert x.grad is None
    assert caught.value.direction == "read"
    del caught
    y = OnFile.apply(x, tier.key)
    y.sum().backward()
    assert torch.equal(x.grad, x.sin())


def test_ctrl_c_in_the_backward_leaves_the_graph_usable(
    tier: FileTier, ctrl_c: Callable[[float], None]
) -> None:
    x = torch.randn(200, 100, requires_grad=True)
    y = OnFile.apply(x, tier.key)
    tier.settings = replace(SMALL, read_pace=50e3)  # so slow that the wait is reached before it
    ctrl_c(0.2)
    with pytest.raises(KeyboardInterrupt):
        torch.autograd.grad(y.sum(), x, retain_graph=True)
    tier.settings = SMALL
    settle()
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, x.sin())
    del y
    assert regions(tier) == []


@pytest.mark.parametrize(
    "hooks",
    [
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t.view(1)),
    ],
)
def test_hooks_that_hand_back_the_memory_do_no_harm(
    tier: FileTier, hooks: Callable[[], Any]
) -> None:
    x = torch.randn(5, requires_grad=True)
    with hooks():
        y = OnFile.apply(x, tier.key)
    y.sum().backward()
    assert torch.equal(x.grad, x.sin())


def test_a_copied_ticket_is_refused(tier: FileTier) -> None:
    x = torch.randn(5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        y = OnFile.apply(x, tier.key)
    with pytest.raises(TransferError, match="its ticket is a copy"):
        y.sum().backward()
    with pytest.raises(TransferError, match="'t' cannot be moved"):
        ops.WRITE_START(x, torch.zeros(1, dtype=torch.int64), 0, "t")


def test_one_kind_of_ticket_is_not_another(tier: FileTier) -> None:
    x = torch.randn(5)
    region = ops.OPEN_SLOTS(tier.key, 4096)
    with pytest.raises(TransferError, match="ticket"):
        ops.WRITE_WAIT(x, region)
    with pytest.raises(TransferError, match="ticket"):
        ops.READ_START(region, x.shape, x.stride(), x.dtype)
    started = ops.WRITE_START(x, region, 0, "x")
    with pytest.raises(TransferError, match="ticket"):
        ops.WRITE_START(x, started, 0, "x")
    with pytest.raises(TransferError, match="waited"):
        ops.READ_START(started, x.shape, x.stride(), x.dtype)


def test_a_folder_that_is_none_is_refused(tier: FileTier) -> None:
    with pytest.raises(TierError, match="no such folder"):
        ops.OPEN_SLOTS(str(tier.folder / "missing"), 4096)


def test_inference_mode_changes_nothing(tier: FileTier) -> None:
    x = torch.randn(30)
    with torch.inference_mode():
        assert torch.equal(there_and_back(tier.key, x), x)
        assert torch.equal(there_and_back(tier.key, x + 1), x + 1)


def test_parameters_are_no_obstacle(tier: FileTier) -> None:
    """The ops record no gradient, and change no version of what they only read."""
    x = torch.nn.Parameter(torch.randn(30))
    version = x._version
    back = there_and_back(tier.key, x)
    assert torch.equal(back, x)
    assert x._version == version
