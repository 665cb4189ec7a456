"""Keeps states in 8 bits an element, and weights in 16 + 8 (FlashOptim, arXiv 2602.23349).

    first moment m     int8    127 φ(m / s),   φ(x) = 2x / (1 + |x|)     s: the largest |m| of 64
    second moment v    uint8   255 √v / s                                s: the largest √v of 64
    weight θ           bfloat16 θ', and int8 127 (θ - θ') / (ulp(θ') / 2)

φ has finer steps near 0, and so has the root for v. A scale s is in float32: it decays with its
elements, exactly. Codes are rounded at random, so that what is too small for a step of a code
counts on average: the share of one micro-batch, or (1-β2) g² beside v. The code of a v above 0 is
at least 1, because Adam divides by √v: v is never taken for much smaller than it is, but elements
below the 255th part of the largest √v of their 64 take shorter steps than with AdamW.

The random numbers are those of a Weyl sequence, frac(φ i + offset), made anew for each block: no
generator has a state that would have to be saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd

import torch
from torch import Tensor
from torch.nn.functional import pad

from roam.core.errors import HyperparameterError
from roam.optim.blocks import alike, block_size
from roam.optim.fold import State, StateSpec, Turn

GROUP = 64  # elements that share a scale: 4 / 64 bytes of it for each element
TINY = 1e-38  # the least scale that is divided by: near the least normal number of float32
WEYL = 0x9E3779B9 - 2**32  # 2^32 times the golden ratio, as a signed 32-bit number
APART = 7919  # a prime number of places in the sequence between two turns


def signed(name: str, param: Tensor) -> tuple[StateSpec, ...]:
    """Returns the states of a first moment."""
    return StateSpec.like(name, param, torch.int8), scales(name, param)


def unsigned(name: str, param: Tensor) -> tuple[StateSpec, ...]:
    """Returns the states of a second moment."""
    return StateSpec.like(name, param, torch.uint8), scales(name, param)


def is_code(state: State, name: str) -> bool:
    return f"{name}_scale" in state


def scales(name: str, param: Tensor) -> StateSpec:
    return StateSpec(f"{name}_scale", (-(-param.numel() // GROUP),), torch.float32)


class Piece:
    """A range of a parameter's elements, in the order of memory.

    Attributes:
        tensors: the pieces of the tensors that `pieces` was given.
        start, end: the range of elements.
    """

    def __init__(self, tensors: Sequence[Tensor], start: int, end: int) -> None:
        self.tensors, self.start, self.end = tensors, start, end

    def codes(self, state: State, name: str) -> tuple[Tensor, Tensor]:
        """Returns the codes of this range, flat, and their scales."""
        codes = state[name]
        flat = codes.permute(_order(codes)).reshape(-1)[self.start : self.end]
        groups = slice(self.start // GROUP, -(-self.end // GROUP))
        return flat, state[f"{name}_scale"][groups]

    def noise(self, like: Tensor, at: Turn) -> Tensor:
        """Returns numbers in [0, 1) for this range: others in each turn."""
        turn = self.start + APART * (at.step + 31 * at.micro_batch)
        offset = (turn * WEYL + 2**31) % 2**32 - 2**31
        made = torch.arange(like.numel(), dtype=torch.int32, device=like.device)
        return made.mul_(WEYL).add_(offset).to(torch.float32).mul_(2.0**-32).add_(0.5)


def pieces(codes: Tensor, *tensors: Tensor) -> Iterator[Piece]:
    """Cuts tensors into pieces of about a block, and of whole groups of codes.

    Args:
        codes: lie as the parameter does.
        tensors: of the parameter's shape, or of size 1 in some dimensions, where all elements
            share a value. The first is the parameter.

    Raises:
        HyperparameterError: the parameter has gaps in memory.
    """
    if not alike(codes, tensors[0]):
        raise HyperparameterError("8-bit states need parameters without gaps: p.contiguous()")
    order = _order(codes)
    laid = [t.permute(order) for t in tensors]
    if all(t.shape == codes.shape for t in tensors):
        laid = [t.reshape(-1) for t in laid]
    if not laid[0].dim():
        laid = [t.reshape(1) for t in laid]
    rows, each = len(laid[0]), laid[0][:1].numel()
    whole = GROUP // gcd(GROUP, max(1, each))  # rows that make whole groups
    step = max(1, block_size(codes) // max(1, each * whole)) * whole
    for start in range(0, rows, step):
        end = min(start + step, rows)
        yield Piece([t if len(t) != rows else t[start:end] for t in laid], start * each, end * each)


def like_codes(grad: Tensor, codes: Tensor) -> Tensor:
    """Returns the gradient with elements in the order of the codes, in new memory if needed."""
    if alike(codes, grad):
        return grad
    return torch.empty_like(codes, dtype=grad.dtype).copy_(grad)


def read_signed(piece: Piece, state: State, name: str) -> Tensor:
    """Returns a first moment in float32, flat, in new memory."""
    codes, scale = piece.codes(state, name)
    y = codes.to(torch.float32).mul_(1 / 127)
    return _scaled(y.div_(y.abs().neg_().add_(2)), scale)


def write_signed(piece: Piece, state: State, name: str, m: Tensor, noise: Tensor) -> None:
    """Stores a first moment: m is flat, and is overwritten."""
    codes, scale = piece.codes(state, name)
    grouped = _grouped(m)
    torch.amax(grouped.abs(), dim=1, out=scale)
    x = grouped.div_(scale.clamp(min=TINY).unsqueeze(1))
    longer = x.abs().add_(1)
    y = x.mul_(2 * 127).div_(longer).view(-1)[: codes.numel()]
    # beside 127 the noise may round up to 1
    codes.copy_(y.add_(noise).floor_().clamp_(-127, 127))


def read_unsigned(piece: Piece, state: State, name: str) -> Tensor:
    """Returns the root of a second moment in float32, flat, in new memory."""
    codes, scale = piece.codes(state, name)
    return _scaled(codes.to(torch.float32), scale / 255)


def write_unsigned(piece: Piece, state: State, name: str, root: Tensor, noise: Tensor) -> None:
    """Stores a second moment, given its root, flat, which is overwritten."""
    codes, scale = piece.codes(state, name)
    grouped = _grouped(root)
    torch.amax(grouped, dim=1, out=scale)
    y = grouped.div_(scale.div(255).clamp_(min=TINY).unsqueeze(1)).view(-1)[: codes.numel()]
    codes.copy_(y.add_(noise).floor_().clamp_(1, 255))


def read_weight(weight: Tensor, remainder: Tensor) -> Tensor:
    """Returns a weight in float32, in new memory."""
    return _half_ulp(weight).mul_(1 / 127).mul_(remainder).add_(weight)


def write_weight(weight: Tensor, remainder: Tensor, exact: Tensor) -> None:
    """Stores a weight in bfloat16 and an 8-bit remainder. `exact` is overwritten."""
    weight.copy_(exact)
    exact.sub_(weight).mul_(127).div_(_half_ulp(weight))
    remainder.copy_(exact.round_().clamp_(-127, 127))


def _half_ulp(weight: Tensor) -> Tensor:
    """Returns half of the distance to the next number of bfloat16, in float32."""
    power = weight.view(torch.int16).bitwise_and(0x7F80).view(torch.bfloat16)  # sign and fraction 0
    return power.to(torch.float32).clamp_(min=2.0**-126).mul_(2.0**-8)


def _order(tensor: Tensor) -> list[int]:
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def _grouped(flat: Tensor) -> Tensor:
    """Returns [groups, GROUP], with zeros at the end of the last group."""
    rest = -flat.numel() % GROUP
    return (pad(flat, (0, rest)) if rest else flat).view(-1, GROUP)


def _scaled(flat: Tensor, scale: Tensor) -> Tensor:
    """Multiplies each group by its scale."""
    if flat.numel() % GROUP == 0:
        flat.view(-1, GROUP).mul_(scale.unsqueeze(1))
        return flat
    return flat.mul_(scale.repeat_interleave(GROUP)[: flat.numel()])
