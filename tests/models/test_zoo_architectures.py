"""Real architectures: the same bits as without roam, and the peak that the plan states.

To add one, add a line to roam.bench.zoo.TINY.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.bench.zoo import TINY, Entry, loss
from tests.helpers import compiler, some_slow, unfused

CORE = [
    *("gpt2", "llama", "bert", "t5", "vit", "resnet", "mobilenetv2", "efficientnet", "convnext"),
    *("swin", "whisper", "mixtral", "mamba", "gemma2", "qwen3", "bart", "clip"),
]
AOT_SUMS_OTHERWISE = {"llama", "qwen2", "qwen3", "mixtral", "mamba"}
STEPS = 3
NUMBERS = 16  # bytes of the numbers of one op, which ATen's kernels make tensors of
Trace = list[dict[str, Tensor]]


def entries(quick: Sequence[str], names: Iterable[str] = TINY) -> list[Any]:
    """Some of the tiny zoo; all but the quick ones run with -m slow."""
    return some_slow({n: TINY[n] for n in names}, quick)


def train(
    entry: Entry, backend: str, *, dropout: bool
) -> tuple[Trace, nn.Module, Callable[[], Any]]:
    """Loss, gradients and buffers of a few steps, the weights changing in between."""
    torch._dynamo.reset()
    model = entry.build().train(dropout)
    batch = entry.batch()
    step = compiler(backend)(loss)
    trace: Trace = []

    def forward_backward() -> Tensor:
        value: Tensor = step(model, batch)
        value.backward()
        return value

    for i in range(STEPS):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(i)
        found = {"loss": forward_backward().detach()}
        found |= {f"{n}.grad": p.grad for n, p in model.named_parameters() if p.grad is not None}
        found |= dict(model.named_buffers())
        trace.append(copy.deepcopy(found))
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p.sub_(p.grad, alpha=0.01)
    model.zero_grad(set_to_none=True)
    return trace, model, forward_backward


def assert_same_bits(mine: Trace, theirs: Trace) -> None:
    for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert a.keys() == b.keys()
        different = [n for n in a if not torch.equal(a[n], b[n])]
        assert not different, f"step {i}: {different[:5]} of {len(a)} differ"


# other encoders and experts run in test_transformers.py every time
@pytest.mark.parametrize("entry", entries(("gpt2", "resnet"), CORE))
def test_training(entry: Entry) -> None:
    theirs, *_ = train(entry, "aot_eager", dropout=True)
    roam.reset_report()
    mine, _, step = train(entry, "step", dropout=True)
    assert_same_bits(mine, theirs)

    report = roam.report()
    assert report.unplanned == 0
    assert not report.detours
    if entry.breaks == 0:
        (graph,) = report.graphs
        assert graph.plan is not None
        measured = roam.measure_peak(step).peak
        assert abs(graph.plan.peak - measured) <= NUMBERS
        assert graph.plan.fragmentation < 0.01


@pytest.mark.parametrize("entry", entries(("llama", "convnext")))
def test_without_random_ops(entry: Entry) -> None:
    """In evaluation mode, with gradients: the same bits as eager.

    AOTAutograd sums some gradients of these models in another order than eager, roam or not. There
    the bits are AOTAutograd's.
    """
    theirs, *_ = train(entry, "eager", dropout=False)
    if entry.name in AOT_SUMS_OTHERWISE:
        eager, (theirs, *_) = theirs, train(entry, "aot_eager", dropout=False)
        with pytest.raises(AssertionError, match="differ"):
            assert_same_bits(theirs, eager)
    mine, model, _ = train(entry, "step", dropout=False)
    assert_same_bits(mine, theirs)

    with torch.no_grad():
        expected = torch.compile(loss, backend="aot_eager")(model, entry.batch())
        assert torch.equal(unfused(loss)(model, entry.batch()), expected)
