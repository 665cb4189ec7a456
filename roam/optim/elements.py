"""Updates parameters in one pass over memory, by formulas of their elements that are compiled.

tensors, flat    [------------- rows of ROW elements -------------][rest]
                  by the formula's kernel, which allocates nothing  by eager operators

Only float32 tensors are updated here, and only if they are large enough for a kernel to pay off
(`OnePass.kernel`). For all others, and if there is no compiler, a rule computes the same formulas
by eager operators, block by block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roam.optim.blocks import alike, flat
from roam.runtime.one_pass import LARGE, OnePass

ROW = 64  # elements in a row: a kernel is made for one length of rows, and any number of rows


def update(formula: OnePass, numbers: tuple[float, ...], param: Tensor, *others: Tensor) -> bool:
    """Updates a parameter by a formula that computes each element from those at the same place.

    Args:
        formula: takes `param`, `others`, and `numbers` as a float32 tensor, and changes tensors in
            place. It is called with the tensors as rows, of shape [n, ROW], and then with the
            fewer than ROW elements that are left over, in one dimension.
        numbers: the numbers that the formula takes, such as a learning rate.
        param: the parameter.
        others: the gradient, and states of the parameter's shape.

    Returns:
        True if the parameter is updated. False if the tensors are small, not all in float32 or not
        `alike` (in shape and strides), or if there is no kernel for them. Then nothing has changed.
    """
    tensors = (param.detach(), *others)
    if not _may_pay(tensors) or not alike(*tensors):
        return False
    given = torch.tensor(numbers, dtype=torch.float32, device=param.device)
    pieces = flat(*tensors)
    whole = param.numel() - param.numel() % ROW
    if not formula.by_kernel(*(t[:whole].view(-1, ROW) for t in pieces), given):
        return False
    if whole < param.numel():
        formula.formula(*(t[whole:] for t in pieces), given)
    torch.autograd.graph.increment_version([param])  # autograd cannot see a kernel's writes
    return True


def matrix_update(
    formula: OnePass, numbers: tuple[float, ...], matrix: Tensor, *others: Tensor
) -> bool:
    """Updates tensors by a formula of the elements, rows and columns of a matrix, in few passes.

    Cuts each row into pieces of ROW elements, so that one kernel serves all matrices. A matrix
    [n, m] becomes [n, m / ROW, ROW], values of rows [n, 1, 1], of columns [1, m / ROW, ROW].

    Args:
        formula: takes `matrix` and `others`, cut like this, and `numbers` as a float32 tensor. It
            may change the tensors in place. It runs only as a compiled kernel: its eager operators
            would make tensors as large as the matrix.
        numbers: the numbers that the formula takes, such as a learning rate.
        matrix: a matrix, [n, m].
        others: matrices of its shape, values of rows, [n, 1], and of columns, [1, m].

    Returns:
        True if the formula has run. Then the caller has to bump the version counters of the tensors
        that it changes. False if there is no kernel for these tensors: they are not all contiguous
        and float32, or small, or m is no multiple of ROW, or the compiler fails. Then nothing has
        changed.
    """
    tensors = (matrix, *others)
    views = in_rows(*tensors) if _may_pay(tensors) and matrix.dim() == 2 else None
    if views is None:
        return False
    given = torch.tensor(numbers, dtype=torch.float32, device=matrix.device)
    return formula.by_kernel(*views, given)


def in_rows(matrix: Tensor, *others: Tensor) -> list[Tensor] | None:
    """Returns views of a matrix and of values of its rows and columns, with rows cut into pieces.

    A matrix [n, m] becomes [n, m / ROW, ROW], values of rows [n, 1] become [n, 1, 1], and values of
    columns [1, m] become [1, m / ROW, ROW]. Returns None if m is no multiple of ROW, or a tensor is
    not contiguous.
    """
    tensors = (matrix, *others)
    if matrix.shape[1] % ROW or not all(t.is_contiguous() for t in tensors):
        return None
    return [t.view(len(t), -1, ROW if t.shape[1] > 1 else 1) for t in tensors]


def _may_pay(tensors: Sequence[Tensor]) -> bool:
    """Returns whether there may be a kernel for the tensors: the first is large, all are float32.

    This check is cheap and comes first, because most parameters of a model are small.
    """
    return tensors[0].numel() >= LARGE and all(t.dtype is torch.float32 for t in tensors)
