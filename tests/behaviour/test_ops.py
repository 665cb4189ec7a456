"""Operators of every kind, in small functions: the same bits as without a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.helpers import calls, check, random, some_slow

pytestmark = pytest.mark.usefixtures("everything_placed")

# Each is applied to a (5, 8) product of the input with a weight.
UNARY: dict[str, Callable[[Tensor], Any]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu tanh": lambda y: F.gelu(y, approximate="tanh"),
    "silu": F.silu,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "glu": F.glu,
    "threshold": lambda y: F.threshold(y, 0.1, 2.0),
    "softmax": lambda y: y.softmax(1),
    "softmax over columns": lambda y: y.softmax(0),
    "log_softmax": lambda y: y.log_softmax(1),
    "normalize": F.normalize,
    "clamp": lambda y: y.clamp(-0.5, 0.5),
    "nan": lambda y: y.sqrt(),
    "inf": lambda y: y / 0,
    "nan_to_num": lambda y: torch.nan_to_num(y.sqrt()),
    "lerp": lambda y: y.lerp(y.sin(), 0.3),
    "addcmul": lambda y: torch.addcmul(y, y, y.cos()),
    "where": lambda y: torch.where(y > 0, y, y * 3),
    "maximum": lambda y: torch.maximum(y, y.flip(0)),
    "sum and mean": lambda y: [y.sum(0), y.mean(1)],
    "amax": lambda y: y.amax(1),
    "logsumexp": lambda y: y.logsumexp(1),
    "norm": lambda y: y.norm(dim=1),
    "std": lambda y: y.std(0),
    "var_mean": lambda y: torch.var_mean(y, dim=1),
    "max with dim": lambda y: y.max(dim=1),
    "topk": lambda y: y.topk(2)[0].exp(),
    "sort": lambda y: y.sort()[0].exp(),
    "median": lambda y: y.median(1)[0].exp(),
    "cumsum": lambda y: y.cumsum(1).exp(),
    "cummax": lambda y: y.cummax(1)[0].exp(),
    "logcumsumexp": lambda y: y.logcumsumexp(1),
    "argmax": lambda y: (y.argmax(1), y.exp()),
    "split": lambda y: sum(part.sin() * i for i, part in enumerate(y.split(2, 1))),
    "chunk": lambda y: [part.relu() for part in y.chunk(3, 1)],
    "unbind": lambda y: [part.tanh() for part in y.unbind(0)],
    "parts of a view": lambda y: [part.exp() for part in (y * 2).t().unbind(0)],
    "cat": lambda y: torch.cat([y, y * 2]).sin(),
    "stack": lambda y: torch.stack([y, y.sin()]).sum(2),
    "pad": lambda y: F.pad(y, (1, 2)).exp(),
    "pad inward": lambda y: F.pad(y, (-1, 2)).exp(),
    "pad by reflection": lambda y: F.pad(y[None], (1, 2), mode="reflect").exp(),
    "roll, flip, tril": lambda y: y.roll(1, 0).flip(1).tril().exp(),
    "repeat": lambda y: y.repeat(2, 3).exp(),
    "expand": lambda y: y.expand(2, 5, 8).exp(),
    "unfold": lambda y: y.unfold(1, 3, 2).exp(),
    "index_select": lambda y: y.index_select(1, torch.tensor([1, 1, 0])).exp(),
    "index": lambda y: y[torch.tensor([1, 0, 0])].exp(),
    "index by data": lambda y: y[y.detach().sum(1).argsort()].exp(),
    "diff": lambda y: y.diff().exp(),
    "outer": lambda y: torch.outer(y[0], y[1]).exp(),
    "baddbmm": lambda y: torch.baddbmm(y[None], y[None, :, :5], y[None, :5]),
    "inverse": lambda y: torch.linalg.inv(y[:, :5] + 5 * torch.eye(5)),
    "svdvals": lambda y: torch.linalg.svdvals(y),
    "eigh, cholesky": lambda y: torch.linalg.eigh(torch.linalg.cholesky(y @ y.t() + torch.eye(5)))[
        0
    ],
    "cdist": lambda y: torch.cdist(y, y * 2),
    "interpolate": lambda y: F.interpolate(y[None], scale_factor=2).exp(),
    "pooling": lambda y: [F.avg_pool1d(y[None], 2), F.max_pool1d(y[None], 2).exp()],
    "float64": lambda y: y.double().sin(),
    "bfloat16": lambda y: y.bfloat16().sin().float() * y,
    "fft": lambda y: torch.fft.rfft(y) * 2,
    "complex": lambda y: (torch.fft.fft(y) * torch.complex(y, y)).abs(),
    "complex division": lambda y: (torch.fft.fft(y) / (torch.fft.fft(y[:, 1:], 8) + 1)).abs(),
    "complex division, odd": lambda y: (
        torch.fft.fft(y[:, 1:]) / (torch.fft.fft(y[:, :7] * 2) + 1)
    ).abs(),
    "view_as_real": lambda y: torch.view_as_real(torch.fft.fft(y) * 1.5).exp(),
    "no elements": lambda y: y[:0].exp().sum() + y.exp(),
    "a view of no elements": lambda y: (lambda z: z[:0].exp().sum() + z.exp())(y.sin()),
}

# differ from others here by a kernel, and not in how memory is used
ALIKE = {
    "elu", "leaky_relu", "softplus", "hardtanh", "hardswish", "mish", "logsigmoid", "threshold",
    "softmax over columns", "clamp", "nan", "inf", "lerp", "addcmul", "amax", "logsumexp", "std",
    "median", "cummax", "logcumsumexp", "chunk", "stack", "pad inward", "pad by reflection",
    "repeat", "unfold", "index", "diff", "outer", "interpolate", "cdist", "svdvals",
    "complex division", "complex division, odd",
}  # fmt: skip


def test_prod() -> None:
    """AOTAutograd differentiates it by another formula than eager; the bits are AOTAutograd's."""
    check(calls(lambda w, x: (x @ w).prod(1), (8, 8)), random(5, 8), eager=False)


@pytest.mark.parametrize("op", some_slow(UNARY, UNARY.keys() - ALIKE))
def test_ops_on_a_product(op: Callable[[Tensor], Any]) -> None:
    check(calls(lambda w, x: op(x @ w), (8, 8)), random(5, 8))


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "cross entropy": lambda y, _, t: F.cross_entropy(y, t, ignore_index=2, label_smoothing=0.1),
    "weighted": lambda y, p, t: F.cross_entropy(y, t, weight=p[0]),
    "unreduced": lambda y, _, t: F.cross_entropy(y, t, reduction="none").exp(),
    "of probabilities": lambda y, p, _: F.cross_entropy(y, p),
    "nll": lambda y, _, t: F.nll_loss(y.log_softmax(1), t, reduction="sum"),
    "binary": lambda y, p, _: F.binary_cross_entropy(y.sigmoid(), p, weight=p * 2),
    "binary, weighted twice": lambda y, p, _: F.binary_cross_entropy(
        y.sigmoid(), p, weight=y.detach().exp()
    ),
    "binary with logits": lambda y, p, _: F.binary_cross_entropy_with_logits(y, p),
    "smooth l1": lambda y, p, _: F.smooth_l1_loss(y, p),
    "huber": lambda y, p, _: F.huber_loss(y, p, reduction="none"),
    "mse, l1": lambda y, p, _: [F.mse_loss(y, p), F.l1_loss(y, p, reduction="none")],
    "kl": lambda y, p, _: F.kl_div(y.log_softmax(1), p, reduction="batchmean"),
    "cosine": lambda y, p, _: F.cosine_similarity(y, p),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_losses(loss: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
    probabilities = random(5, 8).softmax(1)
    targets = torch.tensor([0, 1, 2, 3, 7])
    check(calls(lambda w, x, p, t: loss(x @ w, p, t), (8, 8)), random(5, 8), probabilities, targets)


ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "dropout": {"dropout_p": 0.3},
    "mask": {"attn_mask": random(5, 5) > 0},
    "added": {"attn_mask": random(5, 5)},
}


@pytest.mark.parametrize("how", ATTENTION.values(), ids=ATTENTION.keys())
def test_attention(how: dict[str, Any]) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x @ q, x @ k, x @ v, **how)

    check(calls(attend, (4, 4), (4, 4), (4, 4)), random(2, 2, 5, 4))


@pytest.mark.parametrize("shape", [(8, 8), (8, 3)])
def test_an_op_that_asks_whether_its_results_share_a_storage(shape: tuple[int, int]) -> None:
    """AOTAutograd takes its backward apart, so its bits are not those of eager."""
    check(
        calls(lambda w, x: [part.exp() for part in torch.linalg.qr(x @ w)], shape),
        random(8, 8),
        eager=False,
    )


def test_gather_and_scatter() -> None:
    def move(w: Tensor, x: Tensor, i: Tensor) -> list[Tensor]:
        y = x @ w
        wide = torch.zeros(5, 9)
        return [
            y.gather(1, i).exp(),
            wide.scatter_add(1, i, y).exp(),
            wide.scatter(1, i, y).exp(),
            y.scatter_reduce(1, i, x, "amax").exp(),
        ]

    indices = (torch.arange(40) * 7 % 8).reshape(5, 8)
    check(calls(move, (8, 8)), random(5, 8), indices)


def test_einsum() -> None:
    def contract(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("bi,ij,kj->bk", x, a, b).relu()

    check(calls(contract, (8, 6), (3, 6)), random(5, 8))


@pytest.mark.parametrize("rows", [0, 1], ids=["an empty batch", "a batch of one"])
def test_few_rows(rows: int) -> None:
    check(calls(lambda w, x: (x @ w).relu().softmax(1), (8, 8)), random(rows, 8))


def test_nothing_to_sum_over() -> None:
    check(calls(lambda w, x: (x @ w).relu().exp(), (0, 8)), random(5, 0))


def test_scalars() -> None:
    check(calls(lambda a, b, x: (x * a).exp().sin() * b, (), ()), random())


@pytest.mark.parametrize("limit", [-9, 9])
def test_a_fill_is_not_written_over_the_fill_value(limit: int) -> None:
    def fill(a: Tensor, x: Tensor) -> Tensor:
        y = x * a
        return y.masked_fill(x > limit, (a * 2).exp()) * y

    check(calls(fill, ()), random())


def test_a_fill_is_not_written_over_its_mask() -> None:
    def fill(w: Tensor, x: Tensor, flags: Tensor) -> Tensor:
        filled = flags.masked_fill((x > 1) | (x < -1), True)
        return ((x @ w) * filled).exp() * flags

    check(calls(fill, (8, 8)), random(5, 8), random(5, 8) > 0)


def test_nothing_to_differentiate() -> None:
    check(calls(lambda x: x.relu().sin() * 2), random(5, 8))


def test_integers() -> None:
    check(calls(lambda w, i: (w[i] * i[:, None], i + 1, i.shape[0]), (8, 3)), torch.arange(5))


def test_random_numbers() -> None:
    """The planner may not change the order in which ops draw from the generator."""

    def draw(w: Tensor, x: Tensor) -> Tensor:
        y = x @ w
        noise = torch.randn_like(x) + torch.rand(8) * torch.randint(0, 3, (8,))
        shuffled = y[:, torch.randperm(8)] * torch.bernoulli(x.sigmoid())
        return F.dropout(shuffled, 0.3) + F.gumbel_softmax(y) + F.alpha_dropout(noise, 0.2)

    check(calls(draw, (8, 8)), random(5, 8))


def test_function_transforms() -> None:
    def transform(w: Tensor, x: Tensor) -> Tensor:
        inner = torch.func.grad(lambda v: (x @ v).sin().sum())(w)
        rows = torch.vmap(lambda row: (row @ w).exp().sum())(x)
        return inner + rows.sum()  # type: ignore[no-any-return]

    check(calls(transform, (8, 8)), random(5, 8), eager=False)


def entropy_by_columns(a: Tensor, weights: Tensor) -> Tensor:
    logs = a.log_softmax(-1)
    return (logs.exp() * logs).t().cumsum(0).mul(weights).sum()


def sinkhorn(a: Tensor, weights: Tensor) -> Tensor:
    for _ in range(2):
        a = a.log_softmax(-1).t().log_softmax(-1).t()
    return (a.exp() * weights.t()).sum()


TRANSPOSED_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda a, w: F.kl_div(a.log_softmax(-1).t(), w.softmax(0), reduction="batchmean"),
    "entropy": entropy_by_columns,
    "sinkhorn": sinkhorn,
}


@pytest.mark.parametrize("loss", TRANSPOSED_GRADIENTS.values(), ids=TRANSPOSED_GRADIENTS.keys())
def test_softmax_with_a_transposed_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Its kernel returns other strides than its fake value states, and its out= writes by them."""
    check(calls(loss, (30, 20)), random(20, 30), eager=False)


def test_a_view_of_a_transposed_gradient() -> None:
    """Softplus's gradient lies as its gradient does, not as its fake value states: aot_eager raises
    at the view of it, and eager copies."""

    def loss(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
        y = F.softplus(F.linear(x, w) + b)
        return (y.transpose(1, 2).cumsum(-1) * torch.arange(16.0)).sum()

    check(calls(loss, (4, 8), (4,)), random(2, 16, 8), reference="eager")


def test_a_gradient_of_one_element() -> None:
    """The loss's gradient is expanded to a matrix of one element: its strides are 0."""
    check(calls(lambda w, x: (w.t() * x).sum(), (1, 1)), random(1, 1))
