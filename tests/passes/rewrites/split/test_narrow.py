"""Slices of the rows behind a product: the product is made of the rows that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name that everybody knows
from torch import Tensor, fx

from roam.passes.geometry import tensors
from roam.passes.pipeline import Pass
from roam.passes.rewrites.split import Split
from roam.passes.rewrites.split.narrow import narrow
from roam.passes.rewrites.split.seeds import seeds
from roam.passes.rewrites.split.spans import shape
from tests.passes.rewrites.split.joint import Always, Loss, gradients

BATCH, TOKENS, WIDTH, CLASSES = 2, 12, 4, 60


def _inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    of = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(BATCH, TOKENS, WIDTH, generator=of, dtype=dtype),
        "w": torch.randn(CLASSES, WIDTH, generator=of, dtype=dtype),
        "b": torch.randn(CLASSES, generator=of, dtype=dtype),
        "y": torch.randint(0, CLASSES, (BATCH, TOKENS), generator=of),
    }


def _next(logits: Tensor, y: Tensor, by: int = 1) -> Tensor:
    left = logits[:, :-by].reshape(-1, CLASSES)
    return F.cross_entropy(left, y[:, by:].reshape(-1))


def _capped(z: Tensor) -> Tensor:
    return 3 * torch.tanh(z / 3)


def _log_z(z: Tensor) -> Tensor:
    return z.logsumexp(-1).square().mean()


LEFT = BATCH * (TOKENS - 1)
# a loss, and the rows of its product that are left
LOSSES: dict[str, tuple[Loss, int]] = {
    "plain": (lambda d: _next(F.linear(d["x"], d["w"]), d["y"]), LEFT),
    "bias": (lambda d: _next(F.linear(d["x"], d["w"], d["b"]), d["y"]), LEFT),
    "contiguous": (
        lambda d: F.cross_entropy(
            F.linear(d["x"], d["w"])[..., :-1, :].contiguous().view(-1, CLASSES),
            d["y"][..., 1:].contiguous().view(-1),
        ),
        LEFT,
    ),
    "soft cap": (lambda d: _next(_capped(F.linear(d["x"], d["w"], d["b"])), d["y"]), LEFT),
    "scaled by row": (
        lambda d: _next(F.linear(d["x"], d["w"]) * d["x"].mean(-1, keepdim=True), d["y"]),
        LEFT,
    ),
    "scaled by class": (lambda d: _next(F.linear(d["x"], d["w"]) * d["b"], d["y"]), LEFT),
    "some in the middle": (
        lambda d: _log_z(F.linear(d["x"], d["w"], d["b"])[:, 3:8]),
        BATCH * 5,
    ),
    "some sequences": (lambda d: _log_z(F.linear(d["x"], d["w"], d["b"])[1:]), TOKENS),
    "one sequence": (
        lambda d: _next(_capped(F.linear(d["x"][:1], d["w"], d["b"])), d["y"][:1]),
        TOKENS - 1,
    ),
    "one sequence, squeezed": (
        lambda d: F.cross_entropy(F.linear(d["x"][:1], d["w"])[0, :-1], d["y"][0, 1:]),
        TOKENS - 1,
    ),
    "without a batch": (
        lambda d: F.cross_entropy(F.linear(d["x"][0], d["w"])[:-1], d["y"][0, 1:]),
        TOKENS - 1,
    ),
    "the same slice twice": (
        lambda d: _next(z := F.linear(d["x"], d["w"]), d["y"]) + _log_z(z[:, :-1]),
        LEFT,
    ),
    "classes before tokens": (
        lambda d: F.cross_entropy(
            F.linear(d["x"], d["w"]).transpose(1, 2)[:, :, :-1], d["y"][:, 1:]
        ),
        LEFT,
    ),
    "frozen head": (lambda d: _next(F.linear(d["x"], d["w"].detach()), d["y"]), LEFT),
    "behind another layer": (
        lambda d: _next(F.linear(torch.tanh(d["x"] @ d["w"][:WIDTH]), d["w"], d["b"]), d["y"]),
        LEFT,
    ),
}
WHOLE = BATCH * TOKENS
UNCHANGED: dict[str, Loss] = {
    "two slices": lambda d: _next(z := F.linear(d["x"], d["w"]), d["y"]) + _next(z, d["y"], by=2),
    "used whole": lambda d: _next(z := F.linear(d["x"], d["w"]), d["y"]) + _log_z(z),
    "every other row": lambda d: _log_z(F.linear(d["x"], d["w"], d["b"])[:, ::2]),
    "mixed before": lambda d: _next(F.linear(d["x"], d["w"]).softmax(1), d["y"]),
    "no slice": lambda d: _log_z(F.linear(d["x"], d["w"], d["b"])),
    "all rows": lambda d: _log_z(F.linear(d["x"], d["w"], d["b"])[:, -TOKENS:]),
}  # fmt: skip


class Narrow:
    """Drops rows that nothing reads.

    Attributes:
        rows: the number of rows of each product that is larger than what it reads.
        added: the number of rows that each product of a weight's gradient adds over.
        largest: the number of elements of the largest tensor.
    """

    name = "narrow"

    def __call__(self, module: fx.GraphModule) -> int:
        changed = sum([narrow(seed) for seed in [*seeds(module.graph, 256, 2.0)]])
        self.rows = [shape(n)[0] for n in seeds(module.graph, 256, 2.0)]
        products = [n for n in module.graph.nodes if n.target is torch.ops.aten.mm.default]
        self.added = [shape(n.args[0])[1] for n in products if shape(n)[1] == WIDTH]
        self.added = [rows for rows in self.added if rows in (LEFT, WHOLE)]
        self.largest = max(t.numel() for n in module.graph.nodes for t in tensors(n))
        return changed


def _agree(loss: Loss, passes: Sequence[Pass]) -> list[int]:
    found, blocks = gradients(loss, _inputs(), passes)
    whole, _ = gradients(loss, _inputs(), None)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    return blocks


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_nothing_reads_are_not_made(name: str) -> None:
    loss, left = LOSSES[name]
    narrowed = Narrow()
    _agree(loss, [narrowed])
    assert narrowed.rows == [left]
    assert narrowed.largest == left * CLASSES


@pytest.mark.parametrize("name", LOSSES)
def test_the_rows_that_are_left_run_in_blocks(name: str) -> None:
    loss, left = LOSSES[name]
    (blocks,) = _agree(loss, [Always(fewest_rows=4)])
    assert blocks == -(-left // 4)


def test_the_last_block_may_have_fewer_rows() -> None:
    split = Split(smallest=256, amplifies=2.0, fewest_rows=3, near=0.0, close=1.0)
    assert _agree(LOSSES["plain"][0], [split]) == [8]  # of 22 rows: seven times 3, and 1


@pytest.mark.parametrize("name", UNCHANGED)
def test_rows_that_something_reads_are_made(name: str) -> None:
    narrowed = Narrow()
    _agree(UNCHANGED[name], [narrowed])
    assert narrowed.rows == [WHOLE]


def test_two_heads_lose_their_rows_one_after_the_other() -> None:
    def loss(d: Mapping[str, Tensor]) -> Tensor:
        other = F.linear(d["x"], d["w"].flip(0))
        return _next(F.linear(d["x"], d["w"]), d["y"]) + 0.5 * _next(other, d["y"])

    narrowed = Narrow()
    _agree(loss, [narrowed])
    assert narrowed.rows == [LEFT, LEFT]


def test_layers_before_keep_all_rows() -> None:
    narrowed = Narrow()
    _agree(LOSSES["behind another layer"][0], [narrowed])
    # of the logits and of the other layer: the rows that the gradients of the weights add over
    assert sorted(narrowed.added) == [LEFT, WHOLE]


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_bfloat16_logits_in_float32(scale: float) -> None:
    def loss(d: Mapping[str, Tensor]) -> Tensor:
        logits = F.linear(d["x"].bfloat16(), d["w"].bfloat16()).float()
        return _next(_capped(logits), d["y"])

    inputs = _inputs(torch.float32)
    narrowed = Narrow()
    found, _ = gradients(loss, inputs, [narrowed], scale)
    whole, _ = gradients(loss, inputs, [], scale)
    assert narrowed.rows == [LEFT]
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
