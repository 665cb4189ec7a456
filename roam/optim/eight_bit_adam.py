"""Carries out AdamA's and SlimAdamA's folds and updates on moments of 8 bits an element.

A turn is one pass over the elements. It decodes the moments, adds a gradient if there is one,
updates the parameter if asked to, and encodes the moments again if a gradient was added:

    turn(folded=..., move=...)      mode "release"; the moments are rounded after the update
    turn(folded=...)                mode "accumulate", for each micro-batch
    turn(move=...)                  mode "accumulate", at the end of a mini-batch

With `update_clip`, mode "release" takes the last two turns, one after the other, because the limit
on the update needs the new moments. SlimAdamA's averaged second moments are not coded: `turn` adds
the means of the squared gradient to them before its pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roam.optim import eight_bit
from roam.optim.blocks import block_size, squared_sum, wide
from roam.optim.fold import State, StateSpec, Turn
from roam.optim.means import mean_square
from roam.runtime.one_pass import PART, OnePass

# `Turn.micro_batch` when moments that the ranks have combined are rounded, after all micro-batches
AFTER_ALL = -1


class Shares(NamedTuple):
    """The factors on a gradient in the first moment, and on its square in the second moment.

    The first moment gets `first` times the gradient, the second one `second` times its square.
    """

    first: float
    second: float


class Move(NamedTuple):
    """The numbers of an update by moments m and v: p = kept p + rate m / ((root √v + eps) longer).

    Attributes:
        kept: what the weight decay λ leaves of p, 1 - lr λ.
        rate: -lr, divided by the bias correction of m, 1 - β1^t, in update t.
        root: 1 / √(bias correction of v), which is 1 - β2^t.
        eps: Adam's ε.
        longer: the divisor that limits the update (`update_clip`), a scalar tensor; None for 1.
    """

    kept: float
    rate: float
    root: float
    eps: float
    longer: Tensor | None = None


def states(
    param: Tensor, *, remainder: bool, second: StateSpec | None = None
) -> tuple[StateSpec, ...]:
    """Returns the specs of a parameter's states if its moments are kept as codes of 8 bits.

    Args:
        param: the parameter.
        remainder: whether to keep 8 further bits of the parameter's elements, if they are bfloat16.
        second: the spec of the second moment, if it is averaged and so not coded; None if it is
            coded.
    """
    v = eight_bit.unsigned("exp_avg_sq", param) if second is None else (second,)
    more = remainder and param.dtype is torch.bfloat16
    rest = (StateSpec.like("remainder", param, torch.int8),) if more else ()
    return *eight_bit.signed("exp_avg", param), *v, *rest


def decay(state: State, beta1: float, beta2: float) -> None:
    """Multiplies the moments by β1 and β2. Of coded moments, changes the scales and no code."""
    state["exp_avg_scale"].mul_(beta1)
    if (root := state.get("exp_avg_sq_scale")) is not None:
        root.mul_(beta2**0.5)
    else:
        state["exp_avg_sq"].mul_(beta2)


def multiply(state: State, name: str, factor: float) -> None:
    """Multiplies a coded moment by a factor: its scales by the factor, or by √factor.

    The scales of the second moment v are multiplied by √factor, because they are scales of √v.
    """
    state[f"{name}_scale"].mul_(factor if name == "exp_avg" else factor**0.5)


def decoded(state: State, name: str) -> Tensor:
    """Returns a coded moment as a new float32 tensor, with the strides of the codes."""
    read = eight_bit.read_signed if name == "exp_avg" else eight_bit.read_square
    numbers = torch.empty_like(state[name], dtype=torch.float32)
    for part in _pairs(state, name, numbers):
        codes, made = part.tensors
        made.copy_(read(codes, part.scales[0]))
    return numbers


def encode(state: State, name: str, numbers: Tensor, step: int) -> None:
    """Stores `numbers` as the codes and scales of the moment called `name`.

    The random numbers of the rounding depend only on `step`, so all ranks store the same codes.

    numbers: the values of the moment, in float32, with the strides of its codes.
    step: the number of the update, from 1.
    """
    at = Turn(step, AFTER_ALL, 1.0)
    for part in _pairs(state, name, numbers):
        codes, moment = part.tensors
        offset = torch.tensor(eight_bit.offset(at, part.start), device=codes.device)
        noise = eight_bit.noise(moment, offset)
        if name == "exp_avg":
            made, scale = eight_bit.signed_codes(moment, noise)
        else:
            made, scale = eight_bit.root_codes(moment, moment.sqrt(), noise)
        codes.copy_(made)
        part.scales[0].copy_(scale)


def _pairs(state: State, name: str, numbers: Tensor) -> Iterator[eight_bit.Part]:
    """Yields the parts of a coded moment. A part has codes, their scales, and their `numbers`.

    `numbers` are the values of the moment, as a tensor with the strides of the codes.
    """
    codes = state[name]
    return eight_bit.parts([codes, numbers], [state[f"{name}_scale"]], block_size(codes))


def turn(
    state: State,
    param: Tensor,
    at: Turn,
    *,
    folded: tuple[Tensor, Shares] | None = None,
    move: Move | None = None,
) -> None:
    """Adds a gradient to the moments, or updates the parameter, or both, in one pass.

    Args:
        state: the parameter's state.
        param: the parameter.
        at: tells when this happens, which decides the random numbers that round the moments.
        folded: the gradient and its factors; None to add none.
        move: the numbers of the update; None to leave the parameter as it is.
    """
    grad, shares = None, Shares(0.0, 0.0)
    if folded is not None:
        grad, shares = eight_bit.like_codes(folded[0], state["exp_avg"]), folded[1]
        if not _is_coded(state):
            v = state["exp_avg_sq"]
            v.add_(mean_square(grad, tuple(v.shape)), alpha=shares.second)
    numbers = _numbers(shares, move, param.device)
    moved = param.detach() if move is not None else None

    most = PART if TURN.compiles else block_size(param)
    for start, tensors in _parts(state, grad, moved, most):
        offset = torch.tensor(eight_bit.offset(at, start), device=param.device)
        TURN(*tensors, numbers, offset)
    if moved is not None:
        torch.autograd.graph.increment_version([param])  # autograd cannot see a kernel's writes


def squared_momentum(state: State) -> Tensor:
    """Returns the sum of the squared elements of the first moment, in codes, as a scalar tensor."""
    codes = state["exp_avg"]
    total = torch.zeros((), dtype=torch.float32, device=codes.device)
    for part in eight_bit.parts([codes], [state["exp_avg_scale"]], block_size(codes)):
        total += squared_sum(eight_bit.read_signed(part.tensors[0], part.scales[0]))
    return total


def squares(state: State, param: Tensor, move: Move) -> Tensor:
    """Returns the sum of (m / (root √v + eps))² over all elements, a scalar.

    m and v are the moments, `root` and `eps` those of `move`. The fraction is an element's update
    without learning rate, weight decay and m's bias correction.
    """
    total = torch.zeros((), dtype=torch.float32, device=param.device)
    for _, (codes, scale, second, second_scale, *_) in _parts(state, None, None, block_size(param)):
        v = second if second_scale is None else eight_bit.read_square(second, second_scale)
        divisor = v.sqrt().mul_(move.root).add_(move.eps)
        total += squared_sum(eight_bit.read_signed(codes, scale).div_(divisor))
    return total


Arguments = tuple[Any, ...]  # the tensors of one part that `_turn` takes, from codes to remainder


def _parts(
    state: State, grad: Tensor | None, param: Tensor | None, most: int
) -> Iterator[tuple[int, Arguments]]:
    """Cuts the parameter and its states into parts, on which `_turn` then runs one by one.

    Yields, for each part, the index of its first element in the parameter, and the arguments of
    `_turn` that are tensors of the part: from `codes` to `remainder`, in their order.

    Args:
        state: the parameter's state.
        grad: the gradient to add; None to add none.
        param: the parameter, if it is updated; None if not.
        most: limit on the elements of a part.
    """
    coded = _is_coded(state)
    scales = [state["exp_avg_scale"], *([state["exp_avg_sq_scale"]] if coded else [])]
    remainder = None if param is None else state.get("remainder")
    given = [state["exp_avg"], state["exp_avg_sq"], grad, param, remainder]
    for part in eight_bit.parts([t for t in given if t is not None], scales, most):
        cut = iter(part.tensors)
        m, v, *others = (None if t is None else next(cut) for t in given)
        yield part.start, (m, part.scales[0], v, part.scales[1] if coded else None, *others)


def _is_coded(state: State) -> bool:
    return "exp_avg_sq_scale" in state


def _numbers(shares: Shares, move: Move | None, device: torch.device) -> Tensor:
    """Returns the numbers of a turn as a tensor: Python numbers would be constants of a kernel.

    These are the two factors of `shares`, and `kept`, `rate / longer`, `root` and `eps` of `move`.
    """
    kept, rate, root, eps, longer = move or Move(1.0, 0.0, 1.0, 1.0)
    found = torch.tensor([*shares, kept, rate, root, eps], dtype=torch.float32, device=device)
    if longer is not None:
        found[3] /= longer
    return found


def _turn(
    codes: Tensor,
    scale: Tensor,
    second: Tensor,
    second_scale: Tensor | None,
    grad: Tensor | None,
    param: Tensor | None,
    remainder: Tensor | None,
    numbers: Tensor,
    offset: Tensor,
) -> None:
    """Adds a gradient to moments, or updates a parameter, or both, for some of the elements.

    Changes the tensors in place. The moments change only if there is a gradient.

    Args:
        codes, scale: the first moment: its codes and their scales.
        second, second_scale: the second moment: its codes and their scales, or its values and None
            if it is not coded.
        grad: the gradient to add; None to add none.
        param: the parameter to update; None to update nothing.
        remainder: codes of what bfloat16 cuts off the parameter; None if this is not kept.
        numbers: the factors on the gradient, and the numbers of the update (`_numbers`).
        offset: decides the random numbers that round the codes (`eight_bit.noise`).
    """
    first_share, second_share, kept, rate, root_share, eps = numbers.unbind()
    m = eight_bit.read_signed(codes, scale)
    v = second if second_scale is None else eight_bit.read_square(second, second_scale)
    if grad is not None:
        g = grad.to(torch.float32)
        m = m + g * first_share
        if second_scale is not None:
            v = v + g * g * second_share
    root = v.sqrt()
    if param is not None:
        exact = param.to(wide(param.dtype))
        if remainder is not None:
            exact = eight_bit.read_weight(param, remainder)
        exact = exact * kept + m / (root * root_share + eps) * rate
        if remainder is None:
            param.copy_(exact)
        else:
            weight, rest = eight_bit.weight_codes(exact)
            param.copy_(weight)
            remainder.copy_(rest)
    if grad is not None:
        noise = eight_bit.noise(m, offset)
        made, largest = eight_bit.signed_codes(m, noise)
        codes.copy_(made)
        scale.copy_(largest)
        if second_scale is not None:
            made, largest = eight_bit.root_codes(v, root, noise)
            second.copy_(made)
            second_scale.copy_(largest)


TURN = OnePass(_turn)
