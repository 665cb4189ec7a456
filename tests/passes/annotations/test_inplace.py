"""Writing over an input gives the bits that a result of its own would have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from roam.passes import add_mm
from roam.passes.annotations.inplace import META, POINTWISE, ROWWISE, InPlace
from roam.passes.annotations.out_variants import BY_HAND, OutVariants, overload
from roam.passes.annotations.out_variants import META as OUT_META
from roam.passes.rewrites import cross_entropy_backward
from tests.passes.graphs import every_op, garbage, node_of, own_memory, same_bits, trace

aten = torch.ops.aten
DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool)
Layout = tuple[tuple[int, ...], bool]  # a shape, and whether its first and last dims are swapped
LAYOUTS: tuple[Layout, ...] = (
    ((64, 1000), False),  # above the size from which kernels run in parallel
    ((7, 33), False),  # no whole number of vectors
    ((1000, 64), True),
    ((5, 3, 17), True),
)


def pointwise_ops() -> Iterator[Any]:
    """Every op that the pass may mark: tagged pointwise, functional, with a variant."""
    for op in every_op():
        changes = any(a.alias_info for a in op._schema.arguments)
        marked = torch.Tag.pointwise in op.tags or op in POINTWISE
        if marked and not changes and (overload(op) or op in BY_HAND):
            yield op


OPS = tuple(pointwise_ops())


def test_there_are_many() -> None:
    assert len(OPS) > 200
    assert set(OPS) >= POINTWISE


def sample(op: Any, layout: Layout, dtype: torch.dtype) -> Tensor:
    shape, swapped = layout
    x = torch.randn(shape)
    if op is aten.mvlgamma.default:
        x = x.abs() + 0.5  # it refuses what is not positive
    elif "polynomial" not in op._schema.name:  # these leave their result unwritten for NaN
        flat = x.view(-1)
        flat[::17], flat[1::19], flat[2::23] = float("nan"), float("inf"), -0.0
    if dtype is torch.bool:
        x = x > 0
    elif dtype is torch.int64:
        x = torch.randint(1, 9, shape)
    return (x.transpose(0, -1) if swapped else x).to(dtype)


def arguments(op: Any, layout: Layout, dtype: torch.dtype) -> tuple[list[Any], dict[str, Any]]:
    """Same-shape tensors for the tensors, and for the numbers something harmless."""
    args: list[Any] = []
    for a in op._schema.arguments:
        kind = str(a.type)
        if a.kwarg_only:
            continue
        if kind in ("Tensor", "Optional[Tensor]"):
            of = torch.bool if a.name in ("condition", "mask") else dtype
            lone = op is aten.masked_fill.Tensor and a.name == "value"
            args.append(torch.ones((), dtype=of) if lone else sample(op, layout, of))
        elif a.has_default_value() and kind != "Optional[number]":
            args.append(a.default_value)
        elif op in (aten.native_dropout.default, aten.native_dropout_backward.default):
            args.append({"p": 0.5, "scale": 2.0, "train": True}[a.name])
        else:
            args.append(1 if kind == "int" else dtype is torch.bool or 2)
    if op._schema.name in ("aten::add", "aten::sub") and op._overloadname == "Scalar":
        args = args[:2]  # without an alpha
    needed = [a for a in op._schema.arguments if a.kwarg_only and not a.has_default_value()]
    return args, {a.name: 1 if str(a.type) == "int" else None for a in needed}


def marked(node: fx.Node) -> tuple[fx.Node, ...]:
    """The inputs of the node that its result may overwrite."""
    module = fx.GraphModule(torch.nn.Module(), node.graph)
    OutVariants()(module)
    InPlace()(module)
    [same] = [n for n in module.graph.nodes if n.op == "call_function"]
    node.meta.update(same.meta)
    over: tuple[fx.Node, ...] = same.meta.get(META, ())
    return over


def check_all_marked(op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Runs the op over every input that is marked; returns how many are."""
    torch.manual_seed(0)
    result = op(*args, **kwargs)
    results: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
    node = node_of(op, args, kwargs, result)
    over = [n.meta["val"] for n in marked(node)]
    for overwritten in over:
        variant = node.meta[OUT_META]
        # x and x, or x and its alias, must stay one memory
        copies = {t.data_ptr(): own_memory(t) for t in args if isinstance(t, Tensor)}
        mine = [copies[a.data_ptr()] if isinstance(a, Tensor) else a for a in args]
        outs = [copies[overwritten.data_ptr()], *map(garbage, results[1:])]
        torch.manual_seed(0)
        variant.target(*mine, **kwargs, **dict(zip(variant.names, outs, strict=True)))
        for got, wanted in zip(outs, results, strict=True):
            assert same_bits(got, wanted), (op, wanted.dtype, wanted.shape, wanted.stride())
    return len(over)


def refuses(op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether the op does not exist for these types."""
    try:
        op(*args, **kwargs)
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return True
    return False


@pytest.mark.parametrize("op", OPS, ids=str)
def test_pointwise_ops_over_their_inputs(op: Any) -> None:
    torch.manual_seed(1)
    ran = 0
    for dtype in DTYPES:
        for layout in LAYOUTS:
            args, kwargs = arguments(op, layout, dtype)
            if not refuses(op, args, kwargs):
                ran += check_all_marked(op, args, kwargs)
    assert ran > 0


MIXED = {
    "a row is broadcast": lambda: (torch.randn(64, 1000), torch.randn(1000)),
    "a column is broadcast": lambda: (torch.randn(64, 1), torch.randn(64, 1000)),
    "a number": lambda: (torch.randn(64, 1000), torch.tensor(0.3)),
    "a narrower type": lambda: (torch.randn(64, 1000).bfloat16(), torch.randn(64, 1000)),
    "whole numbers": lambda: (torch.arange(64_000).view(64, 1000), torch.randn(64, 1000)),
    "another layout": lambda: (torch.randn(64, 1000), torch.randn(1000, 64).t()),
}


@pytest.mark.parametrize("how", MIXED)
@pytest.mark.parametrize(
    "op", [aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.maximum.default], ids=str
)
def test_operands_that_differ(op: Any, how: str) -> None:
    """Only the one that lies as the result does is marked."""
    args = MIXED[how]()
    assert check_all_marked(op, args, {}) == 1


def rowwise_cases() -> Iterator[tuple[Any, tuple[Any, ...]]]:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for shape in ((64, 1000), (7, 33), (3, 5, 17), (4, 1), (1,)):
            x, g = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
            yield aten._softmax.default, (x, -1, False)
            yield aten._log_softmax.default, (x, len(shape) - 1, False)
            soft, log_soft = torch.softmax(x, -1), torch.log_softmax(x, -1)
            yield aten._softmax_backward_data.default, (g, soft, -1, dtype)
            yield aten._log_softmax_backward_data.default, (g, log_soft, -1, dtype)
            if len(shape) == 2:
                target = torch.arange(shape[0]) % shape[1]
                rest = (target, None, 1, -100, torch.tensor(float(shape[0]), dtype=dtype), 1, dtype)
                grad = torch.tensor(0.7, dtype=dtype)
                yield cross_entropy_backward.OP, (grad, log_soft, *rest)


def test_rowwise_ops_over_their_inputs() -> None:
    torch.manual_seed(2)
    over: dict[Any, set[int]] = {op: set() for op in ROWWISE}
    for op, args in rowwise_cases():
        over[op].add(check_all_marked(op, args, {}))
    backward = aten._softmax_backward_data.default, aten._log_softmax_backward_data.default
    assert over == {op: {2} if op in backward else {1} for op in ROWWISE}


def test_rows_of_minus_infinity_and_nan() -> None:
    x = torch.randn(9, 40)
    x[2], x[3, 5], x[4, 7] = -torch.inf, torch.nan, torch.inf
    assert check_all_marked(aten._softmax.default, (x, 1, False), {}) == 1
    assert check_all_marked(aten._log_softmax.default, (x, 1, False), {}) == 1


@pytest.mark.parametrize("dim", [0, 1, -2])
def test_softmax_over_another_dim_is_not_marked(dim: int) -> None:
    x = torch.randn(4, 5, 6)
    for op in (aten._softmax.default, aten._log_softmax.default):
        assert check_all_marked(op, (x, dim, False), {}) == 0


def test_several_threads_write_over_their_own_rows() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(128, 1000)
        assert check_all_marked(aten._softmax.default, (x, -1, False), {}) == 1
        assert check_all_marked(aten.addcmul.default, (x, x.clone(), x.clone()), {}) == 3
    finally:
        torch.set_num_threads(threads)


def test_an_input_read_through_another_geometry() -> None:
    x = torch.randn(8, 8)
    assert check_all_marked(aten.add.Tensor, (x, x.t()), {}) == 0
    assert check_all_marked(aten.add.Tensor, (x.t(), x), {}) == 0
    assert check_all_marked(aten.add.Tensor, (x, x[0]), {}) == 0
    assert check_all_marked(aten.add.Tensor, (x, x), {}) == 1
    assert check_all_marked(aten.add.Tensor, (x, x.view(8, 8)), {}) == 2


def test_complex_results_are_not_written_over_anything() -> None:
    """Compilers vectorize complex division only where nothing overlaps, which changes its bits."""
    z = torch.randn(8, dtype=torch.complex64)
    assert check_all_marked(aten.div.Tensor, (z, z + 1), {}) == 0
    assert check_all_marked(aten.mul.Tensor, (z, z.conj()), {}) == 0
    assert check_all_marked(aten.exp.default, (z.conj(),), {}) == 0
    assert check_all_marked(aten.exp.default, (torch.randn(8),), {}) == 1


def test_an_input_that_is_part_of_something_larger() -> None:
    large = torch.randn(9, 8)
    assert check_all_marked(aten.exp.default, (large[:8],), {}) == 0
    assert check_all_marked(aten.exp.default, (large[1:],), {}) == 0
    assert check_all_marked(aten.exp.default, (torch.randn(1, 8).expand(8, 8),), {}) == 0


def test_what_a_variant_reads_late_is_not_overwritten() -> None:
    """masked_fill's variant copies first: its mask and its value are read after that."""
    x, mask = torch.rand(4, 6) > 0.5, torch.rand(4, 6) > 0.5
    number = torch.tensor(2.0)
    assert check_all_marked(aten.masked_fill.Scalar, (x, mask, True), {}) == 1
    assert check_all_marked(aten.masked_fill.Scalar, (x, x, True), {}) == 0
    assert check_all_marked(aten.masked_fill.Scalar, (x, x.view(4, 6), True), {}) == 0
    one = torch.tensor(1.0)
    assert check_all_marked(aten.masked_fill.Tensor, (one, torch.tensor(True), number), {}) == 1


def test_ops_that_mix_elements_are_not_marked() -> None:
    x = torch.randn(6, 6)
    for op, args in (
        (aten.mm.default, (x, x)),
        (aten.cumsum.default, (x, 1)),
        (aten.tril.default, (x,)),
        (aten.index_put.default, (x, [torch.tensor([0])], torch.ones(6))),
    ):
        assert check_all_marked(op, args, {}) == 0


def test_counts_the_marked_nodes() -> None:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        return torch.softmax((x @ w).exp() + 1, -1)

    module = trace(fn, torch.randn(4, 5), torch.randn(5, 6))
    OutVariants()(module)
    assert InPlace()(module) == 3
    over = {n.name: [s.name for s in n.meta[META]] for n in module.graph.nodes if META in n.meta}
    assert over == {"exp": ["mm"], "add": ["exp"], "_softmax": ["add"]}


def test_without_out_variants_nothing_is_marked() -> None:
    module = trace(lambda x: x.exp(), torch.randn(3))
    assert InPlace()(module) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_product_is_added_over_the_accumulator_only(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    square = [torch.randn(40, 40).to(dtype) for _ in range(3)]
    assert check_all_marked(add_mm.OP, square, {}) == 1
    acc, a, _ = square
    assert check_all_marked(add_mm.OP, (acc, acc, a), {}) == 0
    assert check_all_marked(add_mm.OP, (acc, a, acc.t()), {}) == 0
