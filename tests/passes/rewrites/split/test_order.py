"""Where blocks stand in a graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812, the name that everybody knows
from torch import Tensor

from roam.passes.rewrites.split import META
from tests.passes.rewrites.split.joint import Always, Joint

ROWS, WIDTH, CLASSES = 64, 8, 100


def test_a_block_is_complete_before_the_next_begins() -> None:
    """Though the gradients need the number of labels that count, made after the logits."""
    joint = Joint([Always(fewest_rows=ROWS // 4)])
    x, w = torch.randn(ROWS, WIDTH, requires_grad=True), torch.randn(CLASSES, WIDTH)
    y = torch.arange(ROWS)

    def loss(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, w), y, ignore_index=3)

    torch.compile(loss, backend=joint)(x, w.requires_grad_(), y).backward()
    [module] = joint.graphs
    labels = [n.meta[META] for n in module.graph.nodes if META in n.meta]
    assert {block for _, block in labels} == {0, 1, 2, 3}
    assert labels == sorted(labels)
