"""A recurrent language model, unrolled: every step of the LSTM is in the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class UnrolledLSTM(nn.Module):
    """An LSTM that predicts the next token (Zaremba et al., arXiv 1409.2329, sections 3 and 4.1).

    By default the width and the vocabulary of the paper's medium model for the Penn Treebank, with
    one layer.
    """

    def __init__(self, vocab: int = 10_000, width: int = 650) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.cell = nn.LSTMCell(width, width)
        self.head = nn.Linear(width, vocab)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns the loss. Takes token ids [batch, steps], which are their own labels."""
        steps = self.embedding(input_ids).unbind(1)
        h = c = steps[0].new_zeros(steps[0].shape)
        made: list[Tensor] = []
        for x in steps:
            h, c = self.cell(x, (h, c))
            made.append(h)
        logits = self.head(torch.stack(made[:-1], 1))
        return {"loss": cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())}
