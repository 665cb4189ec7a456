"""The estimate by which groups are split: what is kept around a group, and what blocks save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from roam.passes.rewrites.split import Split
from tests.passes.rewrites.split.joint import gradients

ROWS, WIDTH, CLASSES = 512, 256, 2048
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


def test_the_fewest_blocks_that_come_near_the_lowest_peak() -> None:
    _, blocks = gradients(_loss, _inputs(torch.float32), [SPLIT])
    assert blocks == [8]  # with more the gradients of both inputs would be the peak
    _, blocks = gradients(_loss, _inputs(torch.float32), [replace(SPLIT, close=1.2)])
    assert blocks == [4]  # an estimated peak 20 % above that of 8


def test_a_group_whose_sums_are_as_large_as_itself_is_split() -> None:
    fewer = {n: t[:WIDTH] if n != "w" else t for n, t in _inputs(torch.float32).items()}
    _, blocks = gradients(_loss, fewer, [SPLIT])
    assert blocks == [8]


def test_few_blocks_where_each_sum_is_rounded() -> None:
    _, blocks = gradients(_loss, _inputs(torch.bfloat16), [SPLIT])
    assert blocks == [4]
