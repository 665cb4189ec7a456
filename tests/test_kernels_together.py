"""Kernels compiled together: each is what it says, and one program has them all."""

from __future__ import annotations

import torch

from tests.kernels_together import Kernel, load_together


def test_two_kernels_are_one_program() -> None:
    """Both are called `kernel` in their sources, and use a helper of the same name."""
    kernels = []
    for value in (2, 3):
        source = f"""
            #include <cmath>
            static float helper(float x) {{ return std::pow(x, {value}.0f); }}
            extern "C" void kernel(const float* x, float* y) {{ y[0] = helper(x[0]); }}
        """
        kernels.append(Kernel(["const float*", "float*"], source))
    square, cube = load_together(kernels)
    x, y = torch.tensor([5.0]), torch.zeros(2)
    square(x, y[:1])
    cube(x, y[1:])
    assert y.tolist() == [25.0, 125.0]
    assert kernels[0].file != kernels[1].file
    assert kernels[0].file.resolve() == kernels[1].file.resolve()
