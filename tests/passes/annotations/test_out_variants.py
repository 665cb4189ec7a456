"""Writing into given memory: the same bits, the same random numbers, and nothing allocated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from roam.inspect.measure import measure_peak
from roam.passes.annotations.out_variants import BY_HAND, META, OutVariants, find, overload
from tests.passes.graphs import Carved, every_op, garbage, node_of, same_bits, trace

aten = torch.ops.aten
FLOATS = (torch.float32, torch.bfloat16, torch.float64)
WIDE = (torch.float32, torch.float64)
SINGLE = (torch.float32,)


@dataclass(frozen=True)
class Draw:
    """Inputs of one floating type."""

    dtype: torch.dtype

    def __call__(self, *shape: int) -> Tensor:
        x = torch.randn(shape)
        if x.numel() > 8:
            x.view(-1)[5], x.view(-1)[7] = float("nan"), -0.0
        return x.to(self.dtype)

    def tame(self, *shape: int) -> Tensor:
        """Positive and finite."""
        return (torch.rand(shape) + 0.5).to(self.dtype)

    def mask(self, *shape: int) -> Tensor:
        return torch.rand(shape) > 0.5


def index(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape)


Args = tuple[Any, ...]
Make = Callable[[Draw], Args]


@dataclass(frozen=True)
class Case:
    """An op with inputs. The last of the arguments holds the keywords, where it is a dict."""

    op: Any
    make: Make
    dtypes: tuple[torch.dtype, ...] = FLOATS

    def arguments(self, dtype: torch.dtype) -> tuple[list[Any], dict[str, Any]]:
        torch.manual_seed(3)
        *args, last = self.make(Draw(dtype))
        if isinstance(last, dict):
            return args, last
        return [*args, last], {}


by_hand: tuple[Case, ...] = (
    Case(aten.clone.default, lambda r: (r(5, 7),)),
    Case(aten.clone.default, lambda r: (r(5, 7).t(),)),
    Case(aten.clone.default, lambda r: (r(2, 3, 4, 5), {"memory_format": torch.channels_last})),
    Case(aten.clone.default, lambda r: (r(5, 7).t(), {"memory_format": torch.contiguous_format})),
    Case(aten.clone.default, lambda r: (r(9, 7)[::2],)),
    Case(aten.clone.default, lambda r: (r(4, 1).expand(4, 6),)),
    Case(aten._to_copy.default, lambda r: (r(5, 7), {"dtype": torch.bfloat16})),
    Case(aten._to_copy.default, lambda r: (r(5, 7).t(), {"dtype": torch.float32})),
    Case(aten._to_copy.default, lambda r: (r.tame(5, 7), {"dtype": torch.int64})),
    Case(aten._to_copy.default, lambda r: (r.mask(5, 7), {"dtype": r.dtype})),
    Case(aten.relu.default, lambda r: (r(5, 7),)),
    Case(aten.relu.default, lambda r: (r(5, 7).t(),)),
    Case(aten.relu.default, lambda r: (index(9, 5, 7) - 4,), SINGLE),
    Case(aten.masked_fill.Scalar, lambda r: (r(5, 7), r.mask(5, 7), -torch.inf)),
    Case(aten.masked_fill.Scalar, lambda r: (r(5, 7).t(), r.mask(5), 0)),
    Case(aten.masked_fill.Scalar, lambda r: (index(9, 5, 7), r.mask(5, 1), 3), SINGLE),
    Case(aten.masked_fill.Tensor, lambda r: (r(5, 7), r.mask(7), torch.tensor(0.1))),
    Case(aten.embedding.default, lambda r: (r(11, 4), index(11, 3, 5))),
    Case(aten.embedding.default, lambda r: (r(11, 4), index(11, 3, 5), 0, True)),
    Case(aten.embedding.default, lambda r: (r(4, 11).t(), index(11, 5, 3).t())),
    Case(aten.embedding.default, lambda r: (r(11, 4), index(11, 6).int())),
    Case(aten.embedding.default, lambda r: (r(11, 4), torch.tensor(2))),
    Case(aten.slice_backward.default, lambda r: (r(2, 3), [2, 8], 1, 1, 7, 2)),
    Case(aten.slice_backward.default, lambda r: (r(3, 2).t(), [2, 8], -1, -3, 2**63 - 1, 1)),
    Case(aten.select_backward.default, lambda r: (r(2, 3), [2, 4, 3], 1, 2)),
    Case(aten.select_backward.default, lambda r: (r(3, 2).t(), [2, 3, 4], -1, -1)),
    Case(aten.copy.default, lambda r: (r(5, 7), r(7))),
    Case(aten.copy.default, lambda r: (r(7, 5).t(), r(5, 7).double())),
    Case(aten.slice_scatter.default, lambda r: (r(2, 8), r(2, 3), 1, 1, 7, 2)),
    Case(aten.slice_scatter.default, lambda r: (r(8, 2).t(), r(2, 3), -1, -3)),
    Case(aten.slice_scatter.default, lambda r: (r(4, 2), r(4, 2).double())),
    Case(aten.select_scatter.default, lambda r: (r(2, 4, 3), r(2, 3), 1, -2)),
    Case(aten.select_scatter.default, lambda r: (r(3, 4).t(), r(3), 0, 1)),
    Case(aten.index_put.default, lambda r: (r(5, 7), [torch.tensor([1, 3])], r(2, 7))),
    Case(aten.index_put.default, lambda r: (r(5, 7), [torch.tensor([1, 1])], r(2, 7), True)),
    Case(aten.index_put.default, lambda r: (r(5, 7).t(), [None, torch.tensor([4])], r(7, 1))),
    Case(aten.index_put.default, lambda r: (r(5, 7), [r.mask(5, 7)], r(1)[0])),
    Case(aten.index_put.default, lambda r: (r(5, 7), [index(5, 3), index(7, 3)], r(3), True)),
    Case(aten.constant_pad_nd.default, lambda r: (r(3, 4), [1, 2])),
    Case(aten.constant_pad_nd.default, lambda r: (r(3, 4).t(), [1, 2, 3, 0], -0.5)),
    Case(aten.constant_pad_nd.default, lambda r: (r(3, 4), [0, 0], 1)),
    Case(
        aten.constant_pad_nd.default,
        lambda r: (r(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), [1, 1, 2, 2], 0.5),
    ),
    Case(aten.zeros_like.default, lambda r: (r(5, 7).t(),)),
    Case(aten.zeros_like.default, lambda r: (r(5, 7), {"dtype": torch.int64})),
    Case(aten.new_zeros.default, lambda r: (r(5, 7).t(), [2, 3])),
    Case(aten.ones_like.default, lambda r: (r(5, 7), {"dtype": torch.bool})),
    Case(aten.ones_like.default, lambda r: (r(5, 7).t(),)),
    Case(aten.full_like.default, lambda r: (r(5, 7), 0.1)),
    Case(aten.full_like.default, lambda r: (r(5, 7).t(), -torch.inf)),
    Case(aten.full_like.default, lambda r: (r(5, 7), 2.5, {"dtype": torch.float64})),
    Case(aten.native_dropout_backward.default, lambda r: (r(5, 7), r.mask(5, 7), 1 / 0.9)),
    Case(aten.native_dropout_backward.default, lambda r: (r(7, 5).t(), r.mask(5, 7), 2.0)),
    Case(aten.add.Scalar, lambda r: (r(5, 7), 0.1)),
    Case(aten.add.Scalar, lambda r: (index(9, 5, 7), 1), SINGLE),
    Case(aten.add.Scalar, lambda r: (index(9, 5, 7), 0.1), SINGLE),
    Case(aten.sub.Scalar, lambda r: (r(5, 7).t(), 0.1)),
    Case(aten.mul.Scalar, lambda r: (r(5, 7), 0.1)),
    Case(aten.mul.Scalar, lambda r: (r.mask(5, 7), 2), SINGLE),
    Case(aten.div.Scalar, lambda r: (r(5, 7), 0.3)),
    Case(aten.div.Scalar, lambda r: (index(9, 5, 7), 3), SINGLE),
    Case(aten.native_dropout.default, lambda r: (r(5, 7), 0.1, True)),
    Case(aten.native_dropout.default, lambda r: (r(64, 1000), 0.5, True)),
)

matrices: tuple[Case, ...] = (
    Case(aten.mm.default, lambda r: (r(5, 7), r(7, 3))),
    Case(aten.mm.default, lambda r: (r(7, 5).t(), r(3, 7).t())),
    Case(aten.mm.default, lambda r: (r(64, 300), r(300, 128))),
    Case(aten.mm.default, lambda r: (r(5, 0), r(0, 3))),
    Case(aten.mm.default, lambda r: (r(5, 14)[:, ::2], r(7, 3))),
    Case(aten.bmm.default, lambda r: (r(4, 5, 7), r(4, 7, 3))),
    Case(aten.bmm.default, lambda r: (r(4, 7, 5).mT, r(4, 7, 3))),
    Case(aten.bmm.default, lambda r: (r(5, 4, 7).transpose(0, 1), r(4, 3, 7).mT)),
    Case(aten.addmm.default, lambda r: (r(3), r(5, 7), r(3, 7).t())),
    Case(aten.addmm.default, lambda r: (r(5, 3), r(5, 7), r(7, 3), {"beta": 0.5, "alpha": 2})),
    Case(aten.addmm.default, lambda r: (r(300), r(64, 128), r(300, 128).t())),
    Case(aten.baddbmm.default, lambda r: (r(1, 3), r(4, 5, 7), r(4, 7, 3))),
    Case(aten.addmv.default, lambda r: (r(5), r(5, 7), r(7))),
    Case(aten.mv.default, lambda r: (r(5, 7), r(7))),
    Case(aten.dot.default, lambda r: (r(7), r(7))),
)

rows: tuple[Case, ...] = (
    Case(aten._softmax.default, lambda r: (r(5, 70), -1, False)),
    Case(aten._softmax.default, lambda r: (r(70, 5).t(), 1, False)),
    Case(aten._softmax.default, lambda r: (r(5, 7, 3), 1, False)),
    Case(aten._log_softmax.default, lambda r: (r(5, 70), -1, False)),
    Case(aten._log_softmax.default, lambda r: (r(5, 70), 0, False)),
    Case(aten._softmax_backward_data.default, lambda r: (r(5, 70), r(5, 70), -1, r.dtype)),
    Case(aten._log_softmax_backward_data.default, lambda r: (r(5, 70), r(5, 70), -1, r.dtype)),
    Case(aten.sum.dim_IntList, lambda r: (r(5, 7, 3), [-1])),
    Case(aten.sum.dim_IntList, lambda r: (r(5, 7, 3).transpose(0, 2), [0, -2], True)),
    Case(aten.sum.dim_IntList, lambda r: (r(64, 1000), [0])),
    Case(aten.sum.dim_IntList, lambda r: (r(5, 7), [1], {"dtype": torch.float32})),
    Case(aten.mean.dim, lambda r: (r(5, 7, 3), [-1], True)),
    Case(aten.mean.default, lambda r: (r(5, 7),)),
    Case(aten.amax.default, lambda r: (r(5, 7), [-1], True)),
    Case(aten.max.dim, lambda r: (r(5, 7), -1)),
    Case(aten.min.dim, lambda r: (r(5, 7), 0, True)),
    Case(aten.argmax.default, lambda r: (r(5, 7), -1)),
    Case(aten.any.dim, lambda r: (r.mask(5, 7), 1), SINGLE),
    Case(aten.all.default, lambda r: (r.mask(5, 7),), SINGLE),
    Case(aten.var.correction, lambda r: (r(5, 7), [-1], {"correction": 0, "keepdim": True})),
    Case(aten.std.correction, lambda r: (r(5, 7), [0])),
    Case(aten.linalg_vector_norm.default, lambda r: (r(5, 7), 2, [-1])),
    Case(aten.logsumexp.default, lambda r: (r(5, 7), [-1]), WIDE),
    Case(aten.prod.dim_int, lambda r: (r(5, 7), -1)),
    Case(aten.cumsum.default, lambda r: (r(5, 7), -1)),
    Case(aten.cumprod.default, lambda r: (r(5, 7), 0)),
    Case(aten.topk.default, lambda r: (r.tame(5, 70), 3)),
    Case(aten.sort.default, lambda r: (r(5, 70), -1, True)),
    Case(aten.sort.stable, lambda r: (r(5, 70), {"stable": True, "dim": 0})),
)

moving: tuple[Case, ...] = (
    Case(aten.cat.default, lambda r: ([r(5, 7), r(2, 7)],)),
    Case(aten.cat.default, lambda r: ([r(5, 7), r(3, 5).t()], -1)),
    Case(aten.cat.default, lambda r: ([r(5, 7).double(), r(5, 7)], 1)),
    Case(aten.stack.default, lambda r: ([r(5, 7), r(7, 5).t()], -1)),
    Case(aten.index.Tensor, lambda r: (r(5, 7), [torch.tensor([4, 0, 4])])),
    Case(aten.index.Tensor, lambda r: (r(5, 7).t(), [None, torch.tensor([4, 0])])),
    Case(aten.index_select.default, lambda r: (r(5, 7), -1, index(7, 9))),
    Case(aten.index_add.default, lambda r: (r(5, 7), 0, torch.tensor([1, 1]), r(2, 7))),
    Case(aten.gather.default, lambda r: (r(5, 7), -1, index(7, 5, 3))),
    Case(aten.scatter.value, lambda r: (r(5, 7), -1, index(7, 5, 1), 0.5)),
    Case(aten.scatter.src, lambda r: (r(5, 7), 0, index(5, 1, 7), r(1, 7))),
    Case(aten.scatter_add.default, lambda r: (r(5, 7), 1, index(7, 5, 3), r(5, 3))),
    Case(aten.tril.default, lambda r: (r(5, 7), -1)),
    Case(aten.triu.default, lambda r: (r(7, 5).t(), 1)),
    Case(aten.take.default, lambda r: (r(5, 7), index(35, 4))),
    Case(aten.im2col.default, lambda r: (r(2, 3, 6, 6), [2, 2], [1, 1], [0, 0], [2, 2])),
    Case(aten.bucketize.Tensor, lambda r: (r.tame(5, 7), torch.tensor([0.6, 0.9, 1.2])), SINGLE),
)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def pooled(r: Draw) -> Args:
    """The arguments of max pooling's backward."""
    x = r.tame(2, 3, 8, 8)
    y, at = aten.max_pool2d_with_indices(x, [2, 2])
    return torch.ones_like(y), x, [2, 2], [2, 2], [0, 0], [1, 1], False, at


layers: tuple[Case, ...] = (
    Case(aten.max_pool2d_with_indices.default, lambda r: (r(2, 3, 9, 9), [3, 3], [2, 2], [1, 1])),
    Case(aten.max_pool2d_with_indices.default, lambda r: (channels_last(r(2, 3, 8, 8)), [2, 2])),
    Case(aten.max_pool2d_with_indices_backward.default, pooled),
    Case(aten.avg_pool2d.default, lambda r: (r(2, 3, 8, 8), [2, 2])),
    Case(
        aten.avg_pool2d_backward.default,
        lambda r: (r(2, 3, 4, 4), r(2, 3, 8, 8), [2, 2], [2, 2], [0, 0], False, True, None),
    ),
    Case(aten.upsample_nearest2d.default, lambda r: (r(2, 3, 4, 4), [8, 8])),
    Case(aten.upsample_bilinear2d.default, lambda r: (r(2, 3, 4, 4), [7, 9], False)),
    Case(aten.reflection_pad2d.default, lambda r: (r(2, 3, 4, 4), [1, 1, 2, 2])),
    Case(aten.glu.default, lambda r: (r(5, 8), -1)),
    Case(aten.hardtanh_backward.default, lambda r: (r(5, 7), r(5, 7), -1, 1)),
    Case(aten.leaky_relu_backward.default, lambda r: (r(5, 7), r(5, 7), 0.01, False)),
    Case(aten.elu_backward.default, lambda r: (r(5, 7), 1.0, 1, 1, False, r(5, 7))),
    Case(aten.hardswish.default, lambda r: (r(5, 7),)),
    Case(aten.hardsigmoid_backward.default, lambda r: (r(5, 7), r(5, 7))),
    Case(aten.softplus_backward.default, lambda r: (r(5, 7), r(5, 7), 1, 20)),
    Case(aten.nll_loss_forward.default, lambda r: (r(5, 7), index(7, 5), None, 1, -100)),
    Case(aten.nll_loss_forward.default, lambda r: (r(5, 7), index(7, 5), r(7), 2, 3)),
    Case(
        aten.nll_loss_backward.default,
        lambda r: (r(1)[0], r(5, 7), index(7, 5), None, 1, -100, r(1)[0]),
    ),
    Case(aten.mse_loss_backward.default, lambda r: (r(1)[0], r(5, 7), r(5, 7), 1)),
    Case(aten.smooth_l1_loss_backward.default, lambda r: (r(1)[0], r(5, 7), r(5, 7), 1, 1.0)),
    Case(aten.huber_loss_backward.default, lambda r: (r(1)[0], r(5, 7), r(5, 7), 1, 0.5)),
    Case(
        aten.binary_cross_entropy_backward.default,
        lambda r: (r(1)[0], r.tame(5, 7) - 0.5, r.mask(5, 7).to(r.dtype), None, 1),
    ),
    Case(
        aten.native_batch_norm.default,
        lambda r: (r(4, 3, 5), r(3), r(3), None, None, True, 0.1, 1e-5),
        WIDE,
    ),
)

random: tuple[Case, ...] = (
    Case(aten.bernoulli.default, lambda r: (r.tame(5, 7) - 0.5,)),
    Case(aten.multinomial.default, lambda r: (r.tame(5, 7), 3)),
    Case(aten.normal.Tensor_Tensor, lambda r: (r(5, 7), r.tame(5, 7))),
    Case(aten.normal.float_Tensor, lambda r: (0.0, r.tame(5, 7))),
)

arithmetic: tuple[Case, ...] = (
    Case(aten.add.Tensor, lambda r: (r(5, 7), r(7), {"alpha": 2})),
    Case(aten.add.Tensor, lambda r: (r(7, 5).t(), torch.tensor(2.0))),
    Case(aten.add.Tensor, lambda r: (r(5, 7), index(9, 5, 7))),
    Case(aten.mul.Tensor, lambda r: (r(5, 7), r(5, 1).expand(5, 7))),
    Case(aten.mul.Tensor, lambda r: (r(10, 14)[::2, ::2], r(5, 7))),
    Case(aten.div.Tensor, lambda r: (index(9, 5, 7), index(9, 5, 7) + 1), SINGLE),
    Case(aten.pow.Tensor_Scalar, lambda r: (r(5, 7), 3)),
    Case(aten.gelu.default, lambda r: (r(5, 70),)),
    Case(aten.gelu.default, lambda r: (r(5, 70), {"approximate": "tanh"})),
    Case(aten.gelu_backward.default, lambda r: (r(5, 70), r(5, 70), {"approximate": "tanh"})),
    Case(aten.where.self, lambda r: (r.mask(5, 7), r(5, 7), r(1))),
    Case(aten.le.Scalar, lambda r: (r(5, 7), 0)),
    Case(aten.threshold_backward.default, lambda r: (r(5, 7), r(7, 5).t(), 0)),
    Case(aten.silu_backward.default, lambda r: (r(5, 70), r(5, 70))),
    Case(aten.frexp.Tensor, lambda r: (r(5, 7),)),
)  # every other pointwise op: test_inplace.py


def named(cases: Sequence[Case]) -> list[Any]:
    """Every case in every type, with an id of its own."""
    return [
        pytest.param(case, dtype, id=f"{i}-{case.op}-{str(dtype)[6:]}")
        for i, case in enumerate(cases)
        for dtype in case.dtypes
    ]


def fresh(result: Any) -> Any:
    """What a fake value would say of a result: its layout, in a storage just large enough."""
    if isinstance(result, Tensor):
        return garbage(result)
    return type(result)(map(fresh, result))


CASES = by_hand + matrices + rows + moving + layers + random + arithmetic


@pytest.mark.parametrize(("case", "dtype"), named(CASES))
def test_same_bits(case: Case, dtype: torch.dtype) -> None:
    args, kwargs = case.arguments(dtype)
    torch.manual_seed(5)
    result = case.op(*args, **kwargs)
    drawn = torch.get_rng_state()
    results: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
    variant = find(node_of(case.op, args, kwargs, fresh(result)))
    assert variant is not None
    outs = [Carved(t) for t in results]
    torch.manual_seed(5)
    given = {name: out.tensor for name, out in zip(variant.names, outs, strict=True)}
    variant.target(*args, **kwargs, **given)
    assert torch.equal(torch.get_rng_state(), drawn)
    for out, wanted in zip(outs, results, strict=True):
        assert out.is_in_place()
        assert same_bits(out.tensor, wanted)


def test_every_entry_by_hand_has_a_case() -> None:
    assert {c.op for c in by_hand} == set(BY_HAND)


def test_random_cases_do_draw() -> None:
    """Or the test of the generator's state would prove nothing."""
    for case in (*random, by_hand[-1]):
        args, kwargs = case.arguments(torch.float32)
        before = torch.get_rng_state()
        case.op(*args, **kwargs)
        assert not torch.equal(torch.get_rng_state(), before)


def test_no_generated_overload_is_ever_chosen() -> None:
    chosen = {op: overload(op) for op in every_op()}
    found: list[Any] = [v.target for v in chosen.values() if v is not None]
    assert len(found) > 400
    assert not [target for target in found if torch.Tag.generated in target.tags]
    for op in (
        aten.convolution.default,
        aten.native_layer_norm.default,
        aten.native_dropout.default,
        aten.embedding.default,
        aten.relu.default,
        aten.clone.default,
    ):
        assert torch.Tag.generated in op.overloadpacket.out.tags
        assert chosen[op] is None


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize(
    "loss",
    [aten.mse_loss, aten.smooth_l1_loss, aten.huber_loss, aten.soft_margin_loss],
    ids=str,
)
def test_losses_that_write_beyond_their_result(loss: Any, reduction: int) -> None:
    """Reduced, they blow their result up to the shape of the input on the way."""
    x, y = torch.randn(4, 5), torch.randn(4, 5)
    result = loss.default(x, y, reduction)
    assert find(node_of(loss.default, (x, y, reduction), {}, fresh(result))) is None


def test_a_list_of_results_has_no_variant() -> None:
    """Its `out` would be a list; the graph knows the results one by one."""
    x = torch.randn(4, 3)
    for op, args in (
        (aten.unbind_copy.int, (x[:1],)),
        (aten.split_with_sizes_copy.default, (x, [4])),
    ):
        assert find(node_of(op, args, {}, op(*args))) is None


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (aten.native_dropout.default, (torch.ones(4), 0.0, True)),
        (aten.native_dropout.default, (torch.ones(4), 1.0, True)),
        (aten.native_dropout.default, (torch.ones(4), 0.5, False)),
        (aten.native_dropout.default, (torch.ones(4, 4)[:, ::2], 0.5, True)),
        (aten.constant_pad_nd.default, (torch.ones(4), [-1, 2])),
        (aten.masked_fill.Scalar, (torch.ones(4), torch.ones(2, 4).bool(), 1)),
        (aten.add.Scalar, (torch.ones(4), 1, 2)),
    ],
    ids=str,
)
def test_where_the_form_by_hand_does_not_apply(op: Any, args: Args) -> None:
    assert find(node_of(op, args, {}, op(*args))) is None


def test_results_that_cannot_be_placed() -> None:
    x = torch.randn(4, 6)
    for result in (x[:, :3], x[1:], x[::2], x[:1].expand(4, 6), x.to_sparse()):
        assert find(node_of(aten.exp.default, (x,), {}, result)) is None
    assert find(node_of(aten.exp.default, (x,), {}, x.t().contiguous().t())) is not None
    lazy = torch._neg_view(x), (x * 1j).conj()
    assert not any(find(node_of(aten.exp.default, (x,), {}, result)) for result in lazy)


def test_another_device_is_not_copied_to_within_the_arena() -> None:
    x, elsewhere = torch.ones(4), torch.ones(4, device="meta")
    assert find(node_of(aten._to_copy.default, (x,), {"device": "meta"}, elsewhere)) is None
    assert find(node_of(aten._to_copy.default, (x,), {}, x.clone())) is not None


def test_ops_that_change_their_arguments_have_no_variant() -> None:
    x = torch.ones(4)
    assert find(node_of(aten.add_.Tensor, (x, x), {}, x)) is None
    assert find(node_of(aten.view.default, (x, [2, 2]), {}, x.view(2, 2))) is None


def test_annotates_and_counts() -> None:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm((x @ w).relu(), (6,)).t()

    module = trace(fn, torch.randn(4, 5), torch.randn(5, 6))
    assert OutVariants()(module) == 2
    assert [n.name for n in module.graph.nodes if META in n.meta] == ["mm", "relu"]


def scratch(case: Case) -> int:
    """Bytes that the variant allocates, in float32."""
    args, kwargs = case.arguments(torch.float32)
    result = case.op(*args, **kwargs)
    variant = find(node_of(case.op, args, kwargs, result))
    assert variant is not None
    out = {variant.names[0]: garbage(result)}
    return measure_peak(lambda: variant.target(*args, **kwargs, **out)).peak


N = 256
KEYS = torch.arange(N)
NUMBER = 8 + 4  # a Python number becomes a tensor of one element, then another of the right type


@pytest.mark.parametrize(
    ("case", "most"),
    [
        (Case(aten.mm.default, lambda r: (r(N, N), r(N, N).t())), 0),
        (Case(aten.bmm.default, lambda r: (r(4, N, N), r(4, N, N).mT)), 0),
        (Case(aten.addmm.default, lambda r: (r(N), r(N, N), r(N, N).t())), 0),
        (Case(aten.add.Tensor, lambda r: (r(N, N), r(N))), 0),
        (Case(aten.add.Scalar, lambda r: (r(N, N), 2)), NUMBER),
        (Case(aten.mul.Tensor, lambda r: (r(N, N), r(N, N).t())), 0),
        (Case(aten._softmax.default, lambda r: (r(N, N), -1, False)), 0),
        (Case(aten._log_softmax.default, lambda r: (r(N, N), -1, False)), 0),
        (Case(aten._softmax_backward_data.default, lambda r: (r(N, N), r(N, N), -1, r.dtype)), 0),
        (Case(aten.embedding.default, lambda r: (r(N, N), KEYS)), 0),
        (Case(aten.clone.default, lambda r: (r(N, N).t(),)), 0),
        (Case(aten.relu.default, lambda r: (r(N, N),)), NUMBER),
        (Case(aten.gelu.default, lambda r: (r(N, N),)), 0),
        (Case(aten.index_put.default, lambda r: (r(N, N), [KEYS], r(N, N), True)), 0),
        (Case(aten.masked_fill.Scalar, lambda r: (r(N, N), r.mask(N, N), 1.0)), 0),
        (Case(aten.cat.default, lambda r: ([r(N, N), r(N, N)],)), 0),
        (Case(aten.sum.dim_IntList, lambda r: (r(N, N), [0])), 0),
        (Case(aten.constant_pad_nd.default, lambda r: (r(N, N), [1, 1])), 0),
        (Case(aten.slice_backward.default, lambda r: (r(N, N), [N, 2 * N], 1, 0, N, 1)), 0),
        (Case(aten.select_backward.default, lambda r: (r(N, N), [N, 4, N], 1, 1)), 0),
    ],
    ids=lambda x: str(x.op) if isinstance(x, Case) else None,
)
def test_allocates_nothing(case: Case, most: int) -> None:
    assert scratch(case) <= most
