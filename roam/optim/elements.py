"""Updates tensors element by element in one pass over memory, by a formula that is compiled.

flat tensors    [------ part ------][------ part ------][- last rows -][rest]
                 of PART elements, as rows of ROW, by the formula's kernel; the rest by eager
                 operators
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from roam.optim.blocks import alike, block_size, flat
from roam.runtime.one_pass import PART, OnePass

ROW = 64  # elements: a kernel is made for rows of one length, of any number


def update(formula: OnePass, numbers: tuple[float, ...], param: Tensor, *others: Tensor) -> bool:
    """Updates a parameter by a formula of its elements and of those of other tensors.

    Args:
        formula: takes parts of the tensors, and the numbers as a float32 tensor.
        numbers: its numbers.
        param: the parameter.
        others: the gradient and states.

    Returns:
        False if the tensors are not all in float32 and `alike` (in shape and strides). Then nothing
        has changed.
    """
    if any(t.dtype is not torch.float32 for t in (param, *others)) or not alike(param, *others):
        return False
    given = torch.tensor(numbers, dtype=torch.float32, device=param.device)
    most = PART if formula.compiles else block_size(param)
    for part in _parts(flat(param.detach(), *others), most):
        formula(*part, given)
    torch.autograd.graph.increment_version([param])  # autograd cannot see a kernel's writes
    return True


def _parts(tensors: list[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Yields views of the tensors, part by part: rows of ROW elements, and what is left of them."""
    size = len(tensors[0])
    whole = size - size % ROW
    for start in range(0, whole, most):
        yield [t[start : min(start + most, whole)].view(-1, ROW) for t in tensors]
    if whole < size:
        yield [t[whole:] for t in tensors]
