"""What an offline plan says that options would do to its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import roam

ROWS, WIDTH, HIDDEN, VOCABULARY = 1024, 16, 64, 4096
BLOCKS = "split=True runs the ops around it in blocks of rows: it never exists whole"


class Net(nn.Module):
    """A hidden layer that is saved, and logits of 16 MiB, which blocks would be worth it for."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = torch.relu(self.up(x)).square()
        return cross_entropy(self.head(torch.tanh(self.down(h))), labels)


def offered(lowering: str, **options: object) -> dict[str, Sequence[int]]:
    """Returns by sentence the sizes of the buffers that it is about."""
    with torch.device("meta"):
        net, x = Net(), torch.empty(ROWS, WIDTH)
    labels = torch.empty(ROWS, dtype=torch.int64, device="meta")
    step = roam.plan(net, x, labels, lowering=lowering, options={"recompute": False, **options})
    [graph] = roam.StepPlan.from_json(step.to_json()).graphs
    assert graph.problem is not None
    sizes = {b.name: b.size for b in graph.problem.buffers}
    return {s: sorted(map(sizes.__getitem__, names)) for s, names in graph.origins.offers.items()}


@cache
def offered_by_default(lowering: str) -> dict[str, Sequence[int]]:
    return offered(lowering)


def test_logits_could_exist_in_blocks_only_where_they_do_not_already() -> None:
    logits = ROWS * VOCABULARY * 4
    assert {*offered_by_default("aten")[BLOCKS]} == {logits}
    for split in (True, False):
        assert BLOCKS not in offered("aten", split=split), "the user has decided"
    assert BLOCKS not in offered_by_default("inductor"), "they exist in blocks by default"


@pytest.mark.parametrize("lowering", ["aten", "inductor"])
def test_a_rewrite_that_was_not_asked_for_is_offered_with_its_bytes(lowering: str) -> None:
    hidden = ROWS * HIDDEN * 4
    found = offered_by_default(lowering)
    [sentence] = [s for s in found if s.startswith("quantized")]
    kept = "66.00 KiB in place of 256.00 KiB"  # a byte an element, two more for 64 of them
    assert sentence == f"quantized, if it is saved: {kept}; gradients are approximated"
    assert {*found[sentence]} == {hidden}
    asked = offered(lowering, rewrites=["quantized"])
    assert not [s for s in asked if s.startswith("quantized")]
