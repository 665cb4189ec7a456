"""What dynamo's fake values keep alive is freed; the values themselves stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from roam.capture import traced_values


def values(gm: fx.GraphModule) -> Iterator[Any]:
    for node in gm.graph.nodes:
        parts = tree_leaves(node.meta.get(traced_values.VALUE))
        yield from (t for t in parts if isinstance(t, Tensor))


def test_fake_values_lose_what_they_refer_to_and_keep_their_shapes() -> None:
    found: list[tuple[list[Any], list[Any], list[Any]]] = []

    def backend(gm: fx.GraphModule, _: object) -> Callable[..., Any]:
        traced = [(t.grad_fn is not None, t.constant is not None) for t in values(gm)]
        before = [(t.shape, t.stride(), t.dtype) for t in values(gm)]
        traced_values.free(gm)
        assert all(t.grad_fn is None and t.constant is None for t in values(gm))
        found.append((traced, before, [(t.shape, t.stride(), t.dtype) for t in values(gm)]))
        return gm.forward

    torch._dynamo.reset()
    weight = torch.ones(4, 6, requires_grad=True)
    scaled = torch.compile(lambda w: (w * torch.tensor(0.5)).chunk(2)[1].sum(), backend=backend)
    scaled(weight).backward()
    [(traced, before, after)] = found
    assert sum(autograd for autograd, _ in traced) >= 3  # the product, a half and the sum
    assert any(constant for _, constant in traced)
    assert before == after
    assert weight.grad is not None
