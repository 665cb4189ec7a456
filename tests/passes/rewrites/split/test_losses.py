"""Heads and losses of language models, split into blocks, beside the same loss in one piece."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name that everybody knows
from torch import Tensor

from tests.passes.rewrites.split.joint import Always, Loss, gradients

BATCH, TOKENS, WIDTH, CLASSES = 2, 64, 32, 700
BLOCKS = 4
SPLIT = Always(fewest_rows=BATCH * TOKENS // BLOCKS)


def _inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    of = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(BATCH, TOKENS, WIDTH, generator=of, dtype=dtype),
        "w": 0.3 * torch.randn(CLASSES, WIDTH, generator=of, dtype=dtype),
        "b": torch.randn(CLASSES, generator=of, dtype=dtype),
        "y": torch.randint(0, CLASSES, (BATCH, TOKENS), generator=of),
    }


def _ce(logits: Tensor, y: Tensor, **how: object) -> Tensor:
    loss: Tensor = F.cross_entropy(logits.reshape(-1, CLASSES), y.reshape(-1), **how)  # type: ignore[arg-type]
    return loss


def _z_loss(logits: Tensor, y: Tensor) -> Tensor:
    return _ce(logits, y) + 1e-4 * logits.logsumexp(-1).square().mean()


def _focal(logits: Tensor, y: Tensor) -> Tensor:
    losses = _ce(logits, y, reduction="none")
    return ((1 - torch.exp(-losses)) ** 2 * losses).mean()


def _entropy(logits: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return -(p * p.clamp_min(1e-9).log()).sum(-1).mean()


def _picked(logits: Tensor, y: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(-1, y[..., None]).mean()


def _distilled(logits: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(-1), teacher.softmax(-1).detach(), reduction="batchmean")


WEIGHTS = torch.linspace(0.5, 2, CLASSES, dtype=torch.float64)
LOSSES: dict[str, Loss] = {
    "plain": lambda d: _ce(F.linear(d["x"], d["w"]), d["y"]),
    "bias": lambda d: _ce(F.linear(d["x"], d["w"], d["b"]), d["y"]),
    "soft cap": lambda d: _ce(30 * torch.tanh(F.linear(d["x"], d["w"]) / 30), d["y"]),
    "label smoothing": lambda d: _ce(F.linear(d["x"], d["w"]), d["y"], label_smoothing=0.1),
    "ignored": lambda d: _ce(
        F.linear(d["x"], d["w"]), torch.where(d["y"] % 3 == 0, -100, d["y"])
    ),
    "class weights": lambda d: _ce(F.linear(d["x"], d["w"]), d["y"], weight=WEIGHTS),
    "sum": lambda d: _ce(F.linear(d["x"], d["w"]), d["y"], reduction="sum"),
    "z-loss": lambda d: _z_loss(F.linear(d["x"], d["w"]), d["y"]),
    "focal": lambda d: _focal(F.linear(d["x"], d["w"]), d["y"]),
    "entropy": lambda d: _entropy(F.linear(d["x"], d["w"])),
    "picked by hand": lambda d: _picked(F.linear(d["x"], d["w"]), d["y"]),
    "distilled": lambda d: _distilled(
        F.linear(d["x"], d["w"]), F.linear(d["x"], d["w"].flip(0))
    ),
    "frozen head": lambda d: _ce(F.linear(d["x"], d["w"].detach()), d["y"]),
    "classes before tokens": lambda d: F.cross_entropy(
        F.linear(d["x"], d["w"]).transpose(1, 2), d["y"]
    ),
    "perplexity": lambda d: torch.exp(_ce(F.linear(d["x"], d["w"]), d["y"])),
    "powers of the mean": lambda d: (loss := _ce(F.linear(d["x"], d["w"]), d["y"])) ** 2 + loss,
    "root of the mean of squares": lambda d: (
        _ce(F.linear(d["x"], d["w"]), d["y"], reduction="none").square().mean().sqrt()
    ),
    "next token": lambda d: _ce(
        F.linear(d["x"], d["w"]), F.pad(d["y"], (0, 1), value=-100)[:, 1:]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_blocks_is_the_loss_in_one_piece(name: str) -> None:
    whole, _ = gradients(LOSSES[name], _inputs(), None)
    split, blocks = gradients(LOSSES[name], _inputs(), [SPLIT])
    assert blocks == [BLOCKS]
    for found, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_two_heads_are_two_groups() -> None:
    def loss(d: dict[str, Tensor]) -> Tensor:
        other = F.linear(d["x"], d["w"].flip(0))
        return _ce(F.linear(d["x"], d["w"]), d["y"]) + 0.5 * _ce(other, d["y"])

    whole, _ = gradients(loss, _inputs(), None)  # type: ignore[arg-type]
    split, blocks = gradients(loss, _inputs(), [SPLIT])  # type: ignore[arg-type]
    assert blocks == [BLOCKS, BLOCKS]
    for found, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_last_block_has_the_rows_that_are_left() -> None:
    inputs = {name: t[:, :61] if t.shape[:2] == (2, 64) else t for name, t in _inputs().items()}
    whole, _ = gradients(LOSSES["plain"], inputs, None)
    split, blocks = gradients(LOSSES["plain"], inputs, [SPLIT])
    assert blocks == [4]  # of 122 rows: 32, 32, 32, 26
    for found, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


UNSPLIT: dict[str, Loss] = {
    "one logit is used besides": lambda d: (
        _ce(z := F.linear(d["x"], d["w"]), d["y"]) + z.flatten()[d["y"][0, 0]]
    ),
    "the spread of the losses": lambda d: (
        _ce(F.linear(d["x"], d["w"]), d["y"], reduction="none").view(BATCH, -1).std(1).sum()
    ),
    "softmax over the rows": lambda d: _ce(
        F.linear(d["x"], d["w"]).flatten(0, 1).softmax(0), d["y"]
    ),
}  # fmt: skip


class _Clipped(torch.autograd.Function):
    """A backward that is not linear in the tangent: it clips the gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient.clamp(-1e-6, 1e-6)


def test_a_gradient_that_is_clipped_is_not_split(caplog: pytest.LogCaptureFixture) -> None:
    def loss(d: dict[str, Tensor]) -> Tensor:
        logits: Tensor = _Clipped.apply(F.linear(d["x"], d["w"]))
        return _ce(logits, d["y"])

    with caplog.at_level("DEBUG", "roam"):
        split, blocks = gradients(loss, _inputs(), [SPLIT])  # type: ignore[arg-type]
    whole, _ = gradients(loss, _inputs(), None)  # type: ignore[arg-type]
    assert blocks == []
    assert "not linear in the tangent" in caplog.text
    for found, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", UNSPLIT)
def test_what_needs_the_logits_whole_is_not_split(name: str) -> None:
    loss = UNSPLIT[name]
    split, blocks = gradients(loss, _inputs(), [SPLIT])
    whole, _ = gradients(loss, _inputs(), [])
    assert blocks == []
    for found, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_dropout_in_a_group_drops_what_it_drops_in_one_piece() -> None:
    def loss(d: dict[str, Tensor]) -> Tensor:
        return _ce(F.dropout(F.linear(d["x"], d["w"]), 0.3), d["y"])

    torch.manual_seed(0)
    split, blocks = gradients(loss, _inputs(), [SPLIT])  # type: ignore[arg-type]
    torch.manual_seed(0)
    whole, _ = gradients(loss, _inputs(), [])  # type: ignore[arg-type]
    assert blocks == [BLOCKS]
    for found, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_float16_gradients_wait_for_the_scale_of_the_loss() -> None:
    def loss(d: dict[str, Tensor]) -> Tensor:
        return _ce(F.linear(d["x"].half(), d["w"].half()).float(), d["y"])

    _, blocks = gradients(loss, _inputs(torch.float32), [SPLIT])  # type: ignore[arg-type]
    assert blocks == []
