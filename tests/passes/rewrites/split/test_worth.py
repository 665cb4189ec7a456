"""The estimate by which groups are split: what is kept around a group, and what blocks save."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from roam.passes.rewrites.split import Split
from tests.passes.rewrites.split.joint import gradients

ROWS, WIDTH, CLASSES = 256, 256, 2048
SPLIT = Split(smallest=256 * 1024, fewest_rows=16)


def _inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    of = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(ROWS, WIDTH, generator=of).to(dtype),
        "w": torch.randn(CLASSES, WIDTH, generator=of).to(dtype),
        "y": torch.randint(0, CLASSES, (ROWS,), generator=of),
    }


def _loss(d: Mapping[str, Tensor]) -> Tensor:
    return functional.cross_entropy(functional.linear(d["x"], d["w"]).float(), d["y"])


def test_a_weight_that_the_group_reads_is_not_kept_for_it() -> None:
    """The estimate counted a view of the weight, as large as the logits, and nothing was split."""
    _, blocks = gradients(_loss, _inputs(torch.float32), [SPLIT])
    assert blocks == [16]


def test_few_blocks_where_each_sum_is_rounded() -> None:
    _, blocks = gradients(_loss, _inputs(torch.bfloat16), [SPLIT])
    assert blocks == [4]
