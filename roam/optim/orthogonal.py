"""Makes the singular values of a matrix nearly equal, by a Newton-Schulz iteration.

Uses Keller Jordan's quintic iteration, https://kellerjordan.github.io/posts/muon/: the matrix is
divided by its Frobenius norm, and each iteration replaces a singular value x by a x + b x³ + c x⁵.
Five iterations with (a, b, c) = (3.4445, -4.7750, 2.0315) bring singular values to between about
0.7 and 1.2. Singular values below 1/700 of the Frobenius norm end smaller: five iterations enlarge
them by at most 3.4445⁵ = 485.
"""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalized(
    matrix: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
) -> Tensor:
    """Returns a matrix with the singular vectors of `matrix` and singular values near 1.

    Tiny singular values stay smaller, and 0 stays 0. Computes in bfloat16, as torch.optim.Muon
    does, and returns bfloat16. Leaves `matrix` as it is.

    Args:
        matrix: the matrix, [n, m].
        steps: the number of iterations.
        coefficients: (a, b, c). An iteration replaces a singular value x by a x + b x³ + c x⁵.
        eps: the matrix is first divided by its Frobenius norm, or by eps if that is larger.
    """
    a, b, c = coefficients
    x = matrix.to(torch.bfloat16, copy=True)
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x.div_(x.norm().clamp(min=eps))  # now no singular value is above 1
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
