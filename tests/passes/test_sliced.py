"""Slices of results, computed without the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from roam.passes import add_mm
from roam.passes.pipeline import run
from roam.passes.sliced import Sliced
from tests.passes.graphs import trace

aten = torch.ops.aten
ROWS, STEP = 10, 4  # the last slice is a shorter one


def a_transposed_product(g: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    return (g.t() @ x).t().t()


def a_product_that_is_transposed(g: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    return aten.permute.default(x.t() @ g, [1, 0])


def a_tied_gradient(g: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    head = g.t() @ x
    return head + aten.embedding_dense_backward(x * 2, ids, ROWS, -1, False)


def a_gradient_in_one_buffer(g: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    head = add_mm.OP(g.t() @ x, (2 * g).t(), x)
    return aten.index_put(head, [ids - ROWS], x, True)  # negative indices count from the end


def an_embedding_with_padding(g: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    return aten.embedding_dense_backward(x, ids, ROWS, 3, False)


def scattered_values_of_some_rows(g: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    zeros = torch.zeros(ROWS, x.shape[1], dtype=x.dtype)
    mask = (ids != 3).unsqueeze(-1)
    return aten._unsafe_masked_index_put_accumulate(zeros, mask, [ids], x)


def experts(g: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    return torch.bmm(g.t().unsqueeze(-1), (g.t() * 3).unsqueeze(1)).view(ROWS, -1)


def a_cast_and_a_scale(g: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    return (g.t() @ x).float() * g.sum(0).unsqueeze(-1) / x.sum()


CASES = (
    a_transposed_product,
    a_product_that_is_transposed,
    a_tied_gradient,
    a_gradient_in_one_buffer,
    an_embedding_with_padding,
    scattered_values_of_some_rows,
    experts,
    a_cast_and_a_scale,
)


def given() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    g, x = torch.randn(7, ROWS, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    return g, x, torch.tensor([3, 0, 9, 3, 4, 9, 8])


def in_slices(module: fx.GraphModule) -> None:
    """Makes a graph return its result as slices."""
    output = module.graph.output_node()
    result: Any = output.args[0]
    sliced = Sliced.of(result, 0)
    assert sliced is not None
    with module.graph.inserting_before(output):
        made = [sliced.write(i, min(i + STEP, ROWS)) for i in range(0, ROWS, STEP)]
    output.args = (made,)
    module.graph.eliminate_dead_code()
    assert result not in module.graph.nodes  # nothing makes it whole
    module.recompile()


@pytest.mark.parametrize("case", CASES)
def test_slices_are_those_of_the_whole_result(case: Callable[..., Tensor]) -> None:
    module = trace(case, *given())
    whole = module(*given())
    run((), module)
    in_slices(module)
    found = module(*given())
    assert [len(block) for block in found] == [4, 4, 2]
    torch.testing.assert_close(torch.cat(found), whole, rtol=1e-12, atol=1e-12)


def test_what_others_read_is_made_once_and_then_cut() -> None:
    def twice(g: Tensor, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        product = g.t() @ x
        return product * 2, product.sum()

    module = trace(twice, *given())
    returned: Any = module.graph.output_node().args[0]
    sliced = Sliced.of(returned[0], 0)
    assert sliced is not None
    assert not sliced.parts
    assert [source.target for source in sliced.sources] == [aten.mm.default]


@pytest.mark.parametrize(
    "whole",
    [
        lambda g, x, ids: torch.cumsum(g.t(), 0),
        lambda g, x, ids: (g.t() @ x).flatten().view(5, ROWS).t(),
        lambda g, x, ids: torch.softmax(g.t(), 0),
        lambda g, x, ids: torch.rand_like(g.t()),
        # one number for all rows
        lambda g, x, ids: aten.index_put(g.t() * 1, [ids], x[0, 0], True),
    ],
)
def test_what_needs_all_rows_is_not_sliced(whole: Callable[..., Tensor]) -> None:
    module = trace(whole, *given())
    result: Any = module.graph.output_node().args[0]
    sliced = Sliced.of(result, 0)
    made = () if sliced is None else sliced.all_parts()
    assert all(part.node.target in (aten.t.default, aten.permute.default) for part in made)
