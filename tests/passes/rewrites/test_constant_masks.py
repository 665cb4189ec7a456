"""Masks of attentions: what becomes a flag, what stays, and that every bit does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, fx
from torch.nn.functional import scaled_dot_product_attention as attention

from roam.passes.rewrites.constant_masks import POSITIONS, ConstantMasks, Rows, _is_causal
from tests.passes.rewrites.split.joint import Joint

BATCH, HEADS, TOKENS, WIDTH = 2, 3, 20, 8
Mask = Callable[[Tensor, int], Tensor]  # of the padding [batch, keys] and the number of queries


def causal(padding: Tensor, queries: int) -> Tensor:
    keys = padding.shape[-1]
    return torch.arange(keys) <= torch.arange(queries).unsqueeze(-1)


def triangle(padding: Tensor, queries: int) -> Tensor:
    """Added to the scores, with dims in front."""
    return torch.full((queries, padding.shape[-1]), -torch.inf).triu(1)[None, None]


def nothing(padding: Tensor, queries: int) -> Tensor:
    return torch.zeros(queries, padding.shape[-1])


def packed(padding: Tensor, queries: int) -> Tensor:
    """Of one sequence, by the numbers that a library gives to the sequences of a batch."""
    places = torch.arange(queries)
    numbers = (places.diff(prepend=places[:1] - 1) != 1).cumsum(0)
    return causal(padding, queries) & (numbers[:, None] == numbers[None])


def window(padding: Tensor, queries: int) -> Tensor:
    seen = causal(padding, queries)
    return seen & ~seen.tril(-4)


def strict(padding: Tensor, queries: int) -> Tensor:
    """The first token sees all, each other one only those before it."""
    seen = causal(padding, queries).tril(-1)
    return seen | (torch.arange(queries) == 0).unsqueeze(-1)


def finite(padding: Tensor, queries: int) -> Tensor:
    """Scores far below the smallest number would see more than their own token."""
    return torch.where(causal(padding, queries), 0.0, torch.finfo(torch.float32).min)


def padded(padding: Tensor, queries: int) -> Tensor:
    return causal(padding, queries) & padding[:, None, None, :]


@pytest.mark.parametrize(
    ("mask", "queries", "flag"),
    [
        (causal, TOKENS, True),
        (triangle, TOKENS, True),
        (packed, TOKENS, True),
        (nothing, TOKENS, False),
        (nothing, TOKENS - 5, False),
        (window, TOKENS, None),
        (strict, TOKENS, None),
        (finite, TOKENS, None),
        (padded, TOKENS, None),
        (causal, TOKENS - 5, None),  # the kernel's flag means other tokens then
    ],
)
@pytest.mark.parametrize("at_once", [8 * TOKENS, 2**22])  # elements: in many parts, and in one
def test_a_mask_becomes_a_flag_only_if_it_is_the_causal_one(
    mask: Mask, queries: int, flag: bool | None, at_once: int
) -> None:
    def loss(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        return attention(q, k, v, attn_mask=mask(padding, q.shape[-2])).square().mean()

    expected, _ = _trained(loss, queries, [])
    found, graph = _trained(loss, queries, [ConstantMasks(at_once)])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    calls = [n for n in graph.graph.nodes if n.target in POSITIONS]
    assert len(calls) == 2  # forward and backward
    assert {"attn_mask" in n.kwargs for n in calls} == {flag is None}
    assert {_is_causal(n) for n in calls} == {flag is True}
    wide = [n for n in graph.graph.nodes if _is_mask(n, queries)]
    assert bool(wide) is (flag is None)  # what only made the mask is gone


def test_a_mask_is_computed_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of 16,000 tokens takes a GiB."""
    largest = 0
    original = Rows.part

    def part(self: Rows, *args: int) -> Tensor:
        nonlocal largest
        made = original(self, *args)  # type: ignore[arg-type]
        largest = max(largest, made.numel())
        return made

    monkeypatch.setattr(Rows, "part", part)

    def loss(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        return attention(q, k, v, attn_mask=packed(padding, TOKENS)).mean()

    _, graph = _trained(loss, TOKENS, [ConstantMasks(8 * TOKENS)])
    assert not any(n.kwargs.get("attn_mask") for n in graph.graph.nodes)
    assert 0 < largest <= 8 * TOKENS


def test_what_every_layer_makes_anew_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 8,192 tokens and six layers, five times too many took half a minute of compiling."""
    computed: list[fx.Node] = []
    original = Rows.blocks

    def blocks(self: Rows) -> Iterator[tuple[int, Tensor]]:
        computed.append(self.mask)
        return original(self)

    monkeypatch.setattr(Rows, "blocks", blocks)

    def loss(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        for _ in range(3):
            q = attention(q, k, v, attn_mask=packed(padding, TOKENS))
        return q.mean()

    _, graph = _trained(loss, TOKENS, [ConstantMasks()])
    calls = [n for n in graph.graph.nodes if n.target in POSITIONS]
    assert [_is_causal(n) for n in calls] == [True] * 6
    assert len(computed) == 1


def _trained(
    loss: Callable[..., Tensor], queries: int, passes: list[ConstantMasks]
) -> tuple[list[Tensor], fx.GraphModule]:
    """Returns the gradients of query, key and value, and the joint graph."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    q = torch.randn(BATCH, HEADS, queries, WIDTH, requires_grad=True)
    k, v = (torch.randn(BATCH, HEADS, TOKENS, WIDTH, requires_grad=True) for _ in range(2))
    padding = torch.arange(TOKENS).expand(BATCH, -1) >= 0
    joint = Joint(passes)
    torch.compile(loss, backend=joint)(q, k, v, padding).backward()
    [graph] = joint.graphs
    return [t.grad for t in (q, k, v) if t.grad is not None], graph


def _is_mask(node: fx.Node, queries: int) -> bool:
    shape = getattr(node.meta.get("val"), "shape", ())
    return tuple(shape[-2:]) == (queries, TOKENS)
