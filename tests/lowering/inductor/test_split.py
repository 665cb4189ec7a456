"""The peak of a head that runs in blocks, in the code that Inductor generates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.helpers import fused, measured_as_planned

pytestmark = pytest.mark.usefixtures("shared_kernels")
ROWS, WIDTH, CLASSES = 512, 512, 8192
HIDDEN, WEIGHT = ROWS * WIDTH * 4, CLASSES * WIDTH * 4  # bytes
BLOCK = 128 * CLASSES * 4  # bytes of the logits of a block


class Head(nn.Module):
    """A head over the results of layers below, which get a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Parameter(torch.randn(ROWS, WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)

    def forward(self, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.head(self.hidden), labels, label_smoothing=0.1)


def test_one_block_of_logits_beside_the_gradient_of_the_weight() -> None:
    """That gradient is as large as the logits, and the gradients of these are not saved instead.

    The gradient of a block's logits is written over them.
    """
    model, labels = Head(), torch.arange(ROWS) * 7 % CLASSES
    run = fused(model)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        run(labels).backward()

    plan = measured_as_planned(step)
    assert plan.peak <= WEIGHT + BLOCK + HIDDEN + HIDDEN // 2
    found = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    model(labels).backward()
    torch.testing.assert_close(found, [p.grad for p in model.parameters()])
