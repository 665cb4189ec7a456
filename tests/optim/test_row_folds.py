"""Gradients that come one block of rows after another, where something is not as planned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roam.core.errors import MidBatchError, SecondBackwardError
from roam.optim import AdamA


def pair(**how: Any) -> tuple[nn.Parameter, AdamA, nn.Parameter, AdamA]:
    """A parameter with its optimizer, twice."""
    torch.manual_seed(0)
    start = torch.randn(6, 4)
    mine, whole = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    return mine, AdamA([mine], **how), whole, AdamA([whole], **how)


def absorb(optimizer: AdamA, p: Tensor, gradient: Tensor) -> None:
    for start in (0, 4):
        optimizer.absorb_rows(p, gradient[start : start + 4], start)


def clip_values(optimizer: AdamA) -> None:
    optimizer.max_norm = 1e-3


def clip_updates(optimizer: AdamA) -> None:
    optimizer.param_groups[0]["update_clip"] = 1e-3


@pytest.mark.parametrize("clip", [clip_values, clip_updates])
def test_what_needs_the_whole_gradient_by_now_gets_it(clip: Any) -> None:
    """The backward was compiled before: its blocks are put together again."""
    mine, optimizer, whole, other = pair(lr=0.1)
    for change in (lambda _: None, clip):
        for p, one in ((mine, optimizer), (whole, other)):
            change(one)
            gradient = torch.full_like(p, 3.0) * p.detach()
            absorb(one, p, gradient) if p is mine else one.absorb(p, gradient)
            one.step()
    assert torch.equal(mine, whole)


def test_a_parameter_that_has_left_keeps_its_gradient() -> None:
    mine, optimizer, other, _ = pair()
    optimizer.param_groups[0]["params"] = [other]
    kept = mine.grad = torch.ones_like(mine)
    absorb(optimizer, mine, torch.ones_like(mine))
    assert mine.grad is not kept
    assert torch.equal(mine.grad, torch.full_like(mine, 2.0))


def test_rows_of_a_backward_that_failed_are_seen() -> None:
    mine, optimizer, *_ = pair()
    optimizer.absorb_rows(mine, torch.ones(4, 4), 0)
    with pytest.raises(MidBatchError):
        optimizer.state_dict()
    with pytest.raises(SecondBackwardError):  # the same rows once more
        absorb(optimizer, mine, torch.ones_like(mine))
