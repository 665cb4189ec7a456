"""Ops with inputs, whose results are to be written into given memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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

CASES = by_hand + matrices + rows + moving + layers + random + arithmetic
