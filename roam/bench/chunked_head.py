"""A head alone, linear + cross entropy, and its loss as people compute it in blocks of rows.

    hidden [rows, width] -> logits [rows, vocab] -> loss []

`by_torch` is torch's own function, `by_hand` the usual scheme of hand-written kernels: the forward
makes the gradients, block by block, so that only the logits of a block exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, linear_cross_entropy

from roam.bench.batches import Batch


class Head(nn.Module):
    """The end of a language model. Its hidden states are a parameter, so that they get a gradient.

    hidden: [rows, width]
    weight: [vocab, width]
    """

    def __init__(self, rows: int, width: int, vocab: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(rows, width).to(dtype))
        self.weight = nn.Parameter((torch.randn(vocab, width) / width**0.5).to(dtype))

    def forward(self, labels: Tensor) -> dict[str, Tensor]:
        """Returns the mean cross entropy of logits upcast to float32. labels: [rows]"""
        return {"loss": cross_entropy(linear(self.hidden, self.weight).float(), labels)}


def by_torch(model: nn.Module, batch: Batch, blocks: int | None = None) -> Tensor:
    """Returns a Head's loss by torch's chunked function.

    blocks: how many; None: as many as torch chooses.
    """
    hidden, weight = _parts(model)
    options = nn.LinearCrossEntropyOptions()
    if blocks is not None:
        rows = -(-len(hidden) // blocks)
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
    return linear_cross_entropy(hidden, weight, batch["labels"], options=options)


def by_hand(model: nn.Module, batch: Batch, blocks: int) -> Tensor:
    """Returns a Head's loss, block by block of rows."""
    loss: Tensor = ChunkedCrossEntropy.apply(*_parts(model), batch["labels"], blocks)
    return loss


def _parts(model: nn.Module) -> tuple[Tensor, Tensor]:
    if not isinstance(model, Head):
        raise TypeError(f"only a Head has a chunked loss, not a {type(model).__name__}")
    return model.hidden, model.weight


class ChunkedCrossEntropy(torch.autograd.Function):
    """Linear + mean cross entropy whose forward makes the gradients, for a tangent of one."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, blocks: int) -> Tensor:
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        parts = (t.chunk(blocks) for t in (hidden, labels, of_hidden))
        for rows, truth, made in zip(*parts, strict=True):
            logits = (rows @ weight.T).float()
            logits -= logits.amax(1, keepdim=True)
            right = logits.gather(1, truth[:, None])
            total = logits.exp_().sum(1, keepdim=True)  # from here on in place of the logits
            loss += (total.log() - right).sum()
            logits /= total
            logits[torch.arange(len(truth)), truth] -= 1
            gradient = logits.div_(len(labels)).to(weight.dtype)
            torch.mm(gradient, weight, out=made)
            of_weight.addmm_(gradient.T, rows)
            del logits, gradient  # or they live beside those of the next block
        ctx.gradients = of_hidden, of_weight
        return loss / len(labels)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        [tangent] = tangents
        of_hidden, of_weight = ctx.gradients
        del ctx.gradients
        return of_hidden.mul_(tangent), of_weight.mul_(tangent), None, None
