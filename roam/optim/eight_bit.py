"""Keeps states in 8 bits an element, and weights in 16 + 8, after FlashOptim (arXiv 2602.23349).

    first moment m     int8     127 √(|m| / s), with m's sign      s: the largest |m| of 64 elements
    second moment v    uint8    255 √(v / s²)                      s: the largest √v of 64 elements
    weight θ           bfloat16 θ', and int8 127 (θ - θ') / (2^-8 |θ'|)

The roots make the steps of a code finer near 0. 64 elements that follow each other in memory share
a scale s, which is in float32. To decay the elements, only the scale is multiplied, so that no code
is rounded again. Codes of moments are rounded at random: an addend smaller than a step of the
code, such as the gradient of one micro-batch, counts on average. The remainder of a weight, the
int8 code above, is rounded to the nearest code. The code of v is at least 1, because Adam divides
by √v. So v is never read as much too small. But if the √v of an element is below s / 255, it is
read as too large, and this element of the parameter takes shorter steps than with AdamW.

FlashOptim codes m by x / (1 + |x|) instead of a root. Here a root is used because, on a CPU, a
division takes as long as twenty additions. FlashOptim's unit for the remainder is the distance from
θ' to the next bfloat16. That unit is at most twice as fine as 2^-8 |θ'|, and would have to be read
off the bits of θ'.

The random number of element i is frac(φ i + offset), a Weyl sequence. It is computed anew in each
turn (a pass over the elements, `eight_bit_adam`), with another offset. So there is no generator
whose state would have to be saved.

The functions that read and make codes, and `noise`, take tensors of shape
[..., groups, elements of a group] and scales of shape [..., groups, 1]. A group is the elements
that share a scale. The functions return new tensors and change none, so that they can be compiled
into one kernel (`one_pass`). Their constants are literals or local names, because globals would
become arguments of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

from roam.core.errors import HyperparameterError
from roam.optim.blocks import alike, block_size
from roam.optim.fold import State, StateSpec, Turn

GROUP = 64  # elements that share a scale, which takes 4 / 64 bytes an element
# in each step, element i takes the random number that element i + APART took one step earlier; a
# prime
APART = 7919


def signed(name: str, param: Tensor) -> tuple[StateSpec, ...]:
    """Returns the specs of the codes and the scales of a first moment called `name`."""
    return StateSpec.like(name, param, torch.int8), scales(name, param)


def unsigned(name: str, param: Tensor) -> tuple[StateSpec, ...]:
    """Returns the specs of the codes and the scales of a second moment called `name`."""
    return StateSpec.like(name, param, torch.uint8), scales(name, param)


def is_code(state: State, name: str) -> bool:
    return f"{name}_scale" in state


def scales(name: str, param: Tensor) -> StateSpec:
    return StateSpec(f"{name}_scale", (-(-param.numel() // GROUP),), torch.float32)


def ends_in_rows(param: Tensor) -> bool:
    """Returns whether no two rows of a parameter, its slices of dimension 0, share a scale.

    That is so if the parameter is contiguous, has two or more dimensions, and each row consists of
    whole groups of 64 elements.
    """
    return param.dim() > 1 and param.is_contiguous() and param[0].numel() % GROUP == 0


def scales_of_rows(state: State, name: str, rows: slice) -> Tensor:
    """Returns a view of the scales of some rows of the moment called `name`.

    No two rows may share a scale: `ends_in_rows` has to be true for the parameter.
    """
    codes = state[name]
    each = codes[0].numel() // GROUP
    return state[f"{name}_scale"][rows.start * each : rows.stop * each]


def read_signed(codes: Tensor, scale: Tensor) -> Tensor:
    """Returns a first moment in float32, decoded from its codes and their scales."""
    wide = codes.to(torch.float32)
    return wide * wide.abs() * (scale * (1 / 127**2))


def signed_codes(m: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the codes of the first moment m, and their scales.

    noise: numbers in [0, 1), which decide whether a code is rounded up or down.
    """
    sizes = m.abs()
    scale = sizes.amax(-1, keepdim=True)
    root = (sizes * (127**2 / scale.clamp(min=1e-34))).sqrt()  # 127² / 1e-34 is finite
    # near 127, root + noise may be rounded to 128
    y = (torch.where(m < 0, -root, root) + noise).floor()
    return y.clamp(-127, 127).to(torch.int8), scale


def read_square(codes: Tensor, scale: Tensor) -> Tensor:
    """Returns a second moment in float32, decoded from its codes and their scales."""
    root = codes.to(torch.float32) * (scale * (1 / 255))
    return root * root


def root_codes(v: Tensor, root: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the codes of the second moment v, and their scales.

    root: √v.
    noise: numbers in [0, 1), which decide whether a code is rounded up or down.
    """
    scale = v.amax(-1, keepdim=True).sqrt()
    y = root * (255 / scale.clamp(min=1e-36))
    return (y + noise).floor().clamp(1, 255).to(torch.uint8), scale


def read_weight(weight: Tensor, remainder: Tensor) -> Tensor:
    """Returns a weight in float32: the bfloat16 weight with its remainder added."""
    wide = weight.to(torch.float32)
    return wide + wide.abs() * (2.0**-8 / 127) * remainder


def weight_codes(exact: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a weight rounded to bfloat16, and the 8-bit code of what the rounding cuts off."""
    weight = exact.to(torch.bfloat16)
    wide = weight.to(torch.float32)
    rest = (exact - wide) / wide.abs().clamp(min=1e-36) * (2.0**8 * 127)
    return weight, rest.round().clamp(-127, 127).to(torch.int8)


def noise(like: Tensor, offset: Tensor) -> Tensor:
    """Returns a pseudo-random number in [0, 1) for each element.

    Args:
        like: a tensor of shape [..., groups, elements of a group], where the elements of a group
            share a scale. Its values are not read.
        offset: the random number of the first element, times 2^32: what the function `offset`
            returns, as a scalar tensor.
    """
    golden, word = 0x9E3779B9, 0x100000000  # 2^32 frac(φ), with φ the golden ratio, and 2^32
    *shape, count = like.shape
    groups = torch.arange(like.numel() // max(1, count), device=like.device).view(*shape, 1)
    first = ((groups * (64 * golden % word) + offset) & (word - 1)).to(torch.float32) * (1 / word)
    here = torch.arange(count, device=like.device, dtype=torch.float32) * (golden / word)
    places = first + here
    return places - places.floor()


def offset(at: Turn, start: int) -> int:
    """Returns 2^32 times the random number by which the code of an element is rounded.

    The number differs between the turns, the passes in which codes are rounded.

    Args:
        at: tells when the turn happens.
        start: the index of the element in the parameter, in the order of memory.
    """
    return (start + APART * (at.step + 31 * at.micro_batch)) * 0x9E3779B9 % 2**32


class Part(NamedTuple):
    """A range of a parameter's elements, in the order of memory, in each of several tensors.

    The tensors are the parameter, its gradient and its moments, or some of them.

    Attributes:
        tensors: the range of each tensor, of shape [..., groups, elements of a group], with size 1
            in the dimensions in which all elements share a value. A group is 64 elements that share
            a scale.
        scales: the scales of each tensor of codes, of shape [..., groups, 1].
        start: the index of the first element of the range in the parameter.
    """

    tensors: list[Tensor]
    scales: list[Tensor]
    start: int


def parts(tensors: Sequence[Tensor], scales: Sequence[Tensor], most: int) -> Iterator[Part]:
    """Cuts tensors into parts of whole groups, and yields the parts in the order of memory.

    A group is 64 elements that share a scale; the last group may have fewer. A part has views of
    the tensors. Only values that several elements share may be copies: changes of the copies are
    lost.

    Args:
        tensors: tensors of the parameter's shape. In some dimensions they may have size 1, if all
            elements share a value. The first is the parameter, or has its shape and strides.
        scales: tensors of one dimension, with one value for each group.
        most: limit on the elements of a part. A part exceeds it if the fewest rows that are whole
            groups together have more.

    Raises:
        HyperparameterError: the parameter has gaps in memory, or a tensor of its shape has other
            strides.
    """
    first = tensors[0]
    if not alike(first, *(t for t in tensors if t.shape == first.shape)):
        raise HyperparameterError("8-bit states need parameters without gaps: p.contiguous()")
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    laid = [t.permute(order) if t.dim() else t.reshape(1) for t in tensors]
    if all(t.shape == first.shape for t in tensors):
        laid = [t.view(-1) for t in laid]
    elif laid[0].shape[-1] % GROUP:  # shared values are copied for each element: only a few at once
        most = min(most, block_size(first))
    rows, each = len(laid[0]), laid[0][:1].numel()
    whole = GROUP // gcd(GROUP, max(1, each))  # the fewest rows whose elements are whole groups
    step = max(1, most // max(1, each * whole)) * whole
    for start in range(0, rows, step):
        end = min(start + step, rows)
        cut = [t if len(t) != rows else t[start:end] for t in laid]
        own = [s[start * each // GROUP : -(-end * each // GROUP)] for s in scales]
        yield from _grouped(cut, own, start * each)


def _grouped(laid: list[Tensor], scales: list[Tensor], start: int) -> Iterator[Part]:
    shape = laid[0].shape
    if len(shape) > 1 and shape[-1] % GROUP == 0:
        inner = [(1, 1) if t.shape[-1] == 1 else (-1, GROUP) for t in laid]
        cut = [t.unflatten(-1, i) for t, i in zip(laid, inner, strict=True)]
        yield Part(cut, [s.view(*cut[0].shape[:-1], 1) for s in scales], start)
        return
    flat = [t.expand(shape).reshape(-1) for t in laid]
    groups = len(flat[0]) // GROUP
    end = groups * GROUP
    if groups:
        cut = [t[:end].view(-1, GROUP) for t in flat]
        yield Part(cut, [s[:groups].view(-1, 1) for s in scales], start)
    if end < len(flat[0]):
        cut = [t[end:].view(1, -1) for t in flat]
        yield Part(cut, [s[groups:].view(1, 1) for s in scales], start + end)


def like_codes(grad: Tensor, codes: Tensor) -> Tensor:
    """Returns the gradient; if its strides are not those of `codes`, a copy with these strides."""
    if alike(codes, grad):
        return grad
    return torch.empty_like(codes, dtype=grad.dtype).copy_(grad)
