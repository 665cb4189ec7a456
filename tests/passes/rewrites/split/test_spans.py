"""Rows as factors of dimensions, through views."""

from __future__ import annotations

import pytest
import torch

from roam.passes.rewrites.split.spans import Span, cuttable, in_block, located, rows, viewed


@pytest.mark.parametrize(
    ("sizes", "span", "new", "expected"),
    [
        ((3, 4, 5), Span(0, 2), (12, 5), Span(0, 1)),  # all rows
        ((3, 4, 5), Span(0, 1), (12, 5), Span(0, 1, 1, 4)),  # whole sequences
        ((3, 4, 5), Span(1, 2), (12, 5), Span(0, 1, 3, 1)),  # tokens of all sequences
        ((12, 5), Span(0, 1, 1, 4), (3, 4, 5), Span(0, 1)),
        ((12, 5), Span(0, 1, 3, 1), (3, 4, 5), Span(1, 2)),
        ((1, 4, 5), Span(1, 2), (4, 5), Span(0, 1)),
        ((4, 5), Span(0, 1), (1, 4, 1, 5), Span(1, 2)),  # sizes of 1 belong to no span
        ((2, 3, 4, 5), Span(1, 2), (24, 5), Span(0, 1, 2, 4)),
        ((2, 3, 4, 5), Span(1, 2), (2, 12, 5), Span(1, 2, 1, 4)),
        ((2, 3, 4, 5), Span(1, 2), (6, 20), Span(0, 1, 2, 1)),
        ((6, 4, 5), Span(0, 1), (4, 6, 5), Span(0, 2, 1, 4)),
        ((3, 4, 5), Span(1, 2), (2, 30), None),  # what is before the rows is torn apart
        ((4, 5), Span(0, 1), (0,), None),
    ],
)
def test_a_view_keeps_rows_or_tells_that_it_does_not(
    sizes: tuple[int, ...], span: Span, new: tuple[int, ...], expected: Span | None
) -> None:
    assert viewed(sizes, span, new) == expected
    if expected is not None:
        assert viewed(new, expected, sizes) == span
        assert rows(new, expected) == rows(sizes, span)


@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (24, 5), (2, 12, 5), (6, 20), (1, 6, 1, 4, 5)])
def test_a_block_has_the_elements_of_its_rows(sizes: tuple[int, ...]) -> None:
    whole = torch.arange(120).view(2, 3, 4, 5)
    span = located(sizes, before=2, count=3)
    assert span is not None
    cut, dim = cuttable(sizes, span, 3)
    block = whole.view(cut).narrow(dim, 1 * span.inner, 2 * span.inner)
    assert block.numel() == whole.numel() * 2 // 3
    block = block.reshape(in_block(sizes, span, 2))
    assert torch.equal(block.flatten(), whole[:, 1:3].flatten())
