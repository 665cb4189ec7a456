"""Defines second moments stored as a value for each row and a value for each column.

    v ≈ r c / mean(r)          (arXiv 1804.04235)

r has a value for each row: the running mean, over the steps, of the mean of g² over the columns. c
has a value for each column: the same with rows and columns exchanged.

A tensor of more than two dimensions is a batch of matrices, which are its last two dimensions. A
tensor of fewer than two has a second moment for each element. Adafactor, AdaLomo and CAME use these
second moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from roam.optim import elements
from roam.optim.blocks import row_blocks, squared_sum, wide
from roam.optim.fold import FoldRule, State, StateSpec
from roam.runtime.one_pass import OnePass


@dataclass(frozen=True)
class FactoredRule(FoldRule):
    """A rule with factored second moments, in at least float32.

    In bfloat16 the second moments would stand still: with β2 near 1, a running mean changes by less
    than bfloat16 can resolve.
    """

    @property
    def release_only(self) -> str:
        return "it squares the whole gradient of a mini-batch"

    def moments(self, name: str, param: Tensor) -> tuple[StateSpec, ...]:
        """Returns the specs of the second moments called `name`.

        These are `name`_row and `name`_col; only `name` if the parameter has fewer than two
        dimensions.
        """
        dtype = wide(param.dtype)
        if param.dim() < 2:
            return (StateSpec.like(name, param, dtype),)
        *batch, n, m = param.shape
        return (
            StateSpec(f"{name}_row", (*batch, n, 1), dtype),
            StateSpec(f"{name}_col", (*batch, 1, m), dtype),
        )


def absorb(state: State, name: str, grad: Tensor, weight: float, floor: float = 0.0) -> None:
    """Changes second moments v, in place, to (1 - weight) v + weight (g² + floor).

    g is the gradient, and `weight` is 1 - β2. If g is a matrix, changes r and c in the same way,
    with the means of g² over the columns and over the rows in place of g².

    name: the name of the second moments in the state; r and c are called `name`_row and `name`_col.
    floor: is added to g².
    """
    if grad.dim() < 2:
        state[name].mul_(1 - weight).addcmul_(grad, grad, value=weight).add_(floor * weight)
        return
    row, col = state[f"{name}_row"], state[f"{name}_col"]
    if elements.matrix_update(ABSORB, (weight, floor), grad, row, col):
        return
    for side, dim in (("row", -1), ("col", -2)):
        norm = torch.linalg.vector_norm(grad, dim=dim, keepdim=True, dtype=wide(grad.dtype))
        square = norm.square_().div_(max(1, grad.size(dim))).add_(floor)
        state[f"{name}_{side}"].lerp_(square, weight)


def _absorb(g: Tensor, row: Tensor, col: Tensor, numbers: Tensor) -> None:
    """Changes the second moments r and c of a matrix by its gradient g, in place.

    x += weight (mean(g²) + floor - x), for x = r with the mean over columns, for x = c over rows.

    g: of shape [n, m / ROW, ROW], each row cut into pieces of ROW elements (`elements`).
    row, col: r and c, of shapes [n, 1, 1] and [1, m / ROW, ROW].
    numbers: weight and floor.
    """
    weight, floor = numbers.unbind()
    square = g * g
    for found, dims in ((row, (1, 2)), (col, (0,))):
        found.add_((square.mean(dims, keepdim=True) + floor - found) * weight)


ABSORB = OnePass(_absorb)


def scaled(
    state: State, name: str, grad: Tensor, *others: Tensor, floor: float = 0.0
) -> Iterator[tuple[Tensor, ...]]:
    """Yields g / √v for one block of rows after another, with the same rows of `others`.

    v are the second moments. The block of g / √v is new memory, which the caller may change.

    Args:
        state: the parameter's state.
        name: the name of the second moments in the state.
        grad: the gradient g.
        others: tensors of the shape of g.
        floor: smaller values of √v, and of mean(r), are replaced by it. The states are not changed.
    """
    if grad.dim() < 2:
        whole = grad.reshape(-1), state[name].reshape(-1), *(t.view(-1) for t in others)
        for g, v, *rest in row_blocks(*whole):
            yield (v.clamp(min=floor * floor).rsqrt_().mul_(g), *rest)
        return
    row, col = state[f"{name}_row"], state[f"{name}_col"]
    for g, r, c, *rest in row_blocks(grad, *roots(row, col, floor), *others):
        u = r * c
        if floor:
            u.clamp_(max=1 / floor)
        yield (u.mul_(g), *rest)


def roots(row: Tensor, col: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Returns √(mean(r) / r), with a value for each row, and 1 / √c, with one for each column.

    Their product is 1 / √v, where v = r c / mean(r) is the second moment. It is not computed from
    the product r c, which may underflow to 0: then g / √(r c) of a zero gradient would be 0 / 0.

    row, col: r and c.
    floor: the least value of mean(r).
    """
    mean = row.mean(dim=-2, keepdim=True).clamp_(min=floor)
    return row.div(mean).rsqrt_(), col.rsqrt()


def too_long(squares: Tensor, count: int, limit: float) -> Tensor:
    """Returns the divisor that limits an update: max(1, RMS(update) / limit), a scalar tensor.

    Args:
        squares: the sum of the squared elements of the update.
        count: the number of elements of the update.
        limit: the root mean square that the update may have.
    """
    return (squares / max(1, count)).sqrt_().div_(limit).clamp_(min=1)


def sum_of_squares(pieces: Iterator[tuple[Tensor, ...]], like: Tensor) -> Tensor:
    """Returns the sum of the squares of all elements of the first tensor of each piece, a scalar.

    The result lies on the device of `like`. It has the dtype of `like`; float32 if that has fewer
    digits.
    """
    total = squared_sum(like.new_zeros(()))
    for piece, *_ in pieces:
        total += squared_sum(piece)
    return total


def rms(x: Tensor) -> Tensor:
    """Returns the root of the mean square of the elements of x, a scalar of at least float32."""
    return (squared_sum(x) / max(1, x.numel())).sqrt_()
