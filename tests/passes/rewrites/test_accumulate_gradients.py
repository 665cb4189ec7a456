"""The parts of a returned sum are added into one buffer, and the sum stays the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from roam.passes.rewrites.accumulate_gradients import AccumulateGradients
from tests.helpers import random
from tests.passes.graphs import printed, trace

aten = torch.ops.aten
cast = torch.ops.prims.convert_element_type.default
ROWS, COLUMNS, TOKENS = 11, 5, 8
IDS = torch.tensor([3, 3, 0, 10, 7, 3, 9, 0])
A, B = random(ROWS, TOKENS).double(), random(TOKENS, COLUMNS).double()

Sum = Callable[[Tensor, Tensor, Tensor], Tensor]


def zeros(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full((ROWS, COLUMNS), 0, dtype=dtype)


def rows(ids: Tensor, values: Tensor) -> Tensor:
    return aten.index_put(zeros(values.dtype), [ids], values, True)


def unchecked_rows(ids: Tensor, values: Tensor) -> Tensor:
    return aten._unsafe_index_put(zeros(values.dtype), [ids], values, True)


def masked_rows(ids: Tensor, values: Tensor) -> Tensor:
    """What Inductor makes of the gradient of an embedding with padding."""
    mask = (ids != 3).unsqueeze(-1)
    return aten._unsafe_masked_index_put_accumulate(zeros(values.dtype), mask, [ids], values)


def head_and_rows(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return a @ b + rows(ids, b)


def head_and_unchecked_rows(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return unchecked_rows(ids, b) + aten.mm(a, b).permute(1, 0).permute(1, 0)


def head_and_masked_rows(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return a @ b + masked_rows(ids, b)


def head_and_two_uses(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return masked_rows(ids, b) + a @ b + masked_rows(ids.flip(0), b * 2)


def two_uses(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return rows(ids, b) + masked_rows(ids.flip(0), b)


def products(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return (a @ b + (a * 2) @ b) + (a @ (b * 3) + a[:, :2] @ b[:2])


def transposed_products(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    turned = b.permute(1, 0)
    first, second = (turned @ x.permute(1, 0) for x in (a, a * 2))
    return first.permute(1, 0) + second.permute(1, 0)


def with_other_parts(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return (b.sum(0).expand(ROWS, COLUMNS) + a @ b) + (rows(ids, b) + a[:, :COLUMNS].sin())


def cast_at_the_end(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return cast(a @ b + rows(ids, b), torch.float32).view(COLUMNS, ROWS)


def cast_one_by_one(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    """Scatters in float64, a product in float32, and the sum in float32."""
    below = torch.float32
    one, two = cast(rows(ids, b), below), cast(masked_rows(ids.flip(0), b), below)
    return cast(a, below) @ cast(b, below) + one + two


@pytest.mark.parametrize(
    ("fn", "added", "zeros_left"),
    [
        (head_and_rows, 1, 0),
        (head_and_unchecked_rows, 1, 1),
        (head_and_masked_rows, 1, 0),
        (head_and_two_uses, 2, 1),
        (two_uses, 1, 1),
        (products, 3, 0),
        (transposed_products, 1, 0),
        (with_other_parts, 1, 0),
        (cast_at_the_end, 1, 0),
        (cast_one_by_one, 2, 1),
    ],
)
def test_parts_are_added_to_one_buffer(fn: Sum, added: int, zeros_left: int) -> None:
    module = trace(fn, A, B, IDS)
    expected = module(A, B, IDS)
    assert AccumulateGradients()(module) == added
    module.graph.lint()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[expected.dtype]
    torch.testing.assert_close(module(A, B, IDS), expected, rtol=tolerance, atol=tolerance)
    assert printed(module).count(f"full([{ROWS}, {COLUMNS}], 0") == zeros_left
    assert AccumulateGradients()(module) == 0


def test_the_graph_of_a_tied_embedding() -> None:
    module = trace(head_and_rows, A, B, IDS)
    AccumulateGradients()(module)
    assert printed(module) == "\n".join(
        [
            "mm = mm(a_1, b_1)",
            "index_put_default = index_put(mm, [ids_1], b_1, True)",
            "return index_put_default",
        ]
    )


def test_the_graph_of_a_shared_linear_layer() -> None:
    module = trace(transposed_products, A, B, IDS)
    AccumulateGradients()(module)
    text = printed(module)
    assert text.count(" = mm(") == 1
    assert text.count(" = add_mm(permute_3, ") == 1


def test_values_describe_the_new_ops() -> None:
    module = trace(cast_one_by_one, A, B, IDS)
    AccumulateGradients()(module)
    for node in module.graph.nodes:
        if node.op == "call_function":
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
            again = node.target(*args, **kwargs)
            found = node.meta["val"]
            assert (found.dtype, found.shape) == (again.dtype, again.shape)
            assert found.stride() == again.stride()


def read_twice(a: Tensor, b: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    found = rows(ids, b)
    return a @ b + found, found.sum()


def overwriting_rows(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return a @ b + aten.index_put(zeros(), [ids], b, False)


def rows_into_ones(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    ones = torch.full((ROWS, COLUMNS), 1, dtype=torch.float64)
    return a @ b + aten.index_put(ones, [ids], b, True)


def not_returned(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return (a @ b + rows(ids, b)).sum()


def twice_the_same(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    found = rows(ids, b)
    return found + found


def of_other_shapes(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return (a[:1] @ b) + rows(ids, b)


def an_input_and_a_product(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return a + a @ a[:TOKENS]


def scaled(a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    return torch.add(a @ b, rows(ids, b), alpha=2)


@pytest.mark.parametrize(
    "fn",
    [
        read_twice,
        overwriting_rows,
        rows_into_ones,
        not_returned,
        twice_the_same,
        of_other_shapes,
        an_input_and_a_product,
        scaled,
    ],
)
def test_other_sums_stay(fn: Sum) -> None:
    module = trace(fn, A, B, IDS)
    before = printed(module)
    assert AccumulateGradients()(module) == 0
    assert printed(module) == before
