"""Carries out AdamA's and SlimAdamA's folds and updates on moments of 8 bits an element.

One pass reads a piece of the moments, adds a gradient, moves the parameter, and writes them again:

    turn(folded=..., move=...)      release: what moves the parameter has not been rounded
    turn(folded=...)                one micro-batch
    turn(move=...)                  the end of a mini-batch
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from roam.optim import eight_bit
from roam.optim.blocks import mean_square, squared_sum
from roam.optim.eight_bit import Piece
from roam.optim.fold import State, StateSpec, Turn

AFTER_ALL = -1  # the number of the turn that rounds a mini-batch's combined moments


class Shares(NamedTuple):
    """The factors of a gradient in the first moment, and of its square in the second."""

    first: float
    second: float


class Move(NamedTuple):
    """How moments m and v move a parameter p: p = kept p + rate m / ((root √v + eps) longer)."""

    kept: float
    rate: float
    root: float
    eps: float
    longer: Tensor | None = None


def states(
    param: Tensor, *, remainder: bool, second: StateSpec | None = None
) -> tuple[StateSpec, ...]:
    """Returns the states of a parameter.

    Args:
        param: the parameter.
        remainder: whether to keep 8 bits more of its elements, if they are bfloat16.
        second: the second moment, if it has a value for each row or column and no code.
    """
    v = eight_bit.unsigned("exp_avg_sq", param) if second is None else (second,)
    more = remainder and param.dtype is torch.bfloat16
    rest = (StateSpec.like("remainder", param, torch.int8),) if more else ()
    return *eight_bit.signed("exp_avg", param), *v, *rest


def decay(state: State, beta1: float, beta2: float) -> None:
    """Decays the moments. Those with codes decay by their scales, exactly."""
    state["exp_avg_scale"].mul_(beta1)
    if (root := state.get("exp_avg_sq_scale")) is not None:
        root.mul_(beta2**0.5)
    else:
        state["exp_avg_sq"].mul_(beta2)


def multiply(state: State, name: str, factor: float) -> None:
    """Multiplies a moment that has a code, exactly: by its scales, those of v being of √v."""
    state[f"{name}_scale"].mul_(factor if name == "exp_avg" else factor**0.5)


def decoded(state: State, name: str) -> Tensor:
    """Returns a moment that has a code, flat, in float32 and new memory."""
    codes = state[name]
    numbers = torch.empty(codes.numel(), device=codes.device)
    for piece in eight_bit.pieces(codes, codes):
        if name == "exp_avg":
            found = eight_bit.read_signed(piece, state, name)
        else:
            found = eight_bit.read_unsigned(piece, state, name).square_()
        numbers[piece.start : piece.end] = found
    return numbers


def encode(state: State, name: str, numbers: Tensor, step: int) -> None:
    """Stores a moment again that `decoded` returned. Overwrites `numbers`.

    The random numbers of the codes depend on `step` only: every rank stores the same codes.
    """
    at = Turn(step, AFTER_ALL, 1.0)
    for piece in eight_bit.pieces(state[name], state[name]):
        m = numbers[piece.start : piece.end]
        noise = piece.noise(m, at)
        if name == "exp_avg":
            eight_bit.write_signed(piece, state, name, m, noise)
        else:
            eight_bit.write_unsigned(piece, state, name, m.sqrt_(), noise)


def turn(
    state: State,
    param: Tensor,
    at: Turn,
    *,
    folded: tuple[Tensor, Shares] | None = None,
    move: Move | None = None,
) -> None:
    """Adds a gradient to the moments, or moves the parameter, or both."""
    coded = "exp_avg_sq_scale" in state
    shares, tensors = Shares(0.0, 0.0), [param]
    if folded is not None:
        grad, shares = eight_bit.like_codes(folded[0], state["exp_avg"]), folded[1]
        tensors.append(grad)
        if not coded:
            v = state["exp_avg_sq"]
            v.add_(mean_square(grad, tuple(v.shape)), alpha=shares.second)
    if "remainder" in state:
        tensors.append(state["remainder"])
    if not coded:
        tensors.append(state["exp_avg_sq"].sqrt())
    for piece in eight_bit.pieces(state["exp_avg"], *tensors):
        rest = list(piece.tensors[1:])
        m = eight_bit.read_signed(piece, state, "exp_avg")
        root = eight_bit.read_unsigned(piece, state, "exp_avg_sq") if coded else rest.pop()
        if folded is not None:
            g = rest.pop(0).reshape(-1)
            m.add_(g, alpha=shares.first)
            if coded:
                root.square_().addcmul_(g, g, value=shares.second).sqrt_()
        if move is not None:
            _move(move, piece.tensors[0], m, root, rest[0] if rest else None)
        if folded is not None:
            noise = piece.noise(m, at)
            eight_bit.write_signed(piece, state, "exp_avg", m, noise)
            if coded:
                eight_bit.write_unsigned(piece, state, "exp_avg_sq", root, noise)


def squared_momentum(state: State) -> Tensor:
    """Returns the sum of the squared elements of the first moment."""
    codes = state["exp_avg"]
    total = torch.zeros((), dtype=torch.float32, device=codes.device)
    for piece in eight_bit.pieces(codes, codes):
        total += squared_sum(eight_bit.read_signed(piece, state, "exp_avg"))
    return total


def squares(state: State, param: Tensor, move: Move) -> Tensor:
    """Returns the sum of the squared elements of the update, before its bias correction."""
    total = torch.zeros((), dtype=torch.float32, device=param.device)
    for m, denominator in _updates(state, param, move):
        total += squared_sum(m.view(-1) / denominator.expand(m.shape).reshape(-1))
    return total


def _updates(state: State, param: Tensor, move: Move) -> Iterator[tuple[Tensor, Tensor]]:
    coded = "exp_avg_sq_scale" in state
    roots = () if coded else (state["exp_avg_sq"].sqrt(),)
    for piece in eight_bit.pieces(state["exp_avg"], param, *roots):
        m = eight_bit.read_signed(piece, state, "exp_avg").view(piece.tensors[0].shape)
        root = _second(piece, state).view(m.shape) if coded else piece.tensors[1]
        yield m, root.mul(move.root).add_(move.eps)


def _second(piece: Piece, state: State) -> Tensor:
    return eight_bit.read_unsigned(piece, state, "exp_avg_sq")


def _move(move: Move, p: Tensor, m: Tensor, root: Tensor, remainder: Tensor | None) -> None:
    if root.numel() == m.numel():
        root = root.view(p.shape)
    divisor = root.mul(move.root).add_(move.eps)
    if move.longer is not None:
        divisor.mul_(move.longer)
    if remainder is None:
        p.mul_(move.kept).addcdiv_(m.view(p.shape), divisor, value=move.rate)
        return
    exact = eight_bit.read_weight(p, remainder).mul_(move.kept)
    exact.addcdiv_(m.view(p.shape), divisor, value=move.rate)
    eight_bit.write_weight(p, remainder, exact)
