"""Finds the most bytes that a rule allocates at a time to absorb a gradient: runs it on zeros.

    parameters on the CPU, and meta tensors,
    of up to WHOLE elements    the measured peak
    larger ones                the peak on fake tensors of the parameter's shape, plus the
                               difference (measured - fake) at a smaller shape: a kernel may need
                               work space, or replace several ops and their results
    on other devices           the peak on fake tensors

A rule that works on elements, block by block, allocates the same bytes for all parameters that are
larger than a block. A rule with a matrix product or an SVD does not. Because this module measures,
no rule needs a formula for its bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roam.core.machine import Bytes
from roam.optim.changed_values import footprint
from roam.optim.fold import STEP, AccumulatingRule, FoldRule, StateSpec, Turn, Update
from roam.runtime.allocations import fake_peak, measured_peak
from roam.runtime.isolation import aside, settings

# elements of the largest parameter that is made for a measurement: several of the blocks that a CPU
# updates at a time, and 16 MiB in float32 each for the parameter, its gradient and each state
WHOLE = 2**22
# a peak of at most this many bytes counts as 0. Operators that make a 0-dim tensor of a Python
# number allocate so much, and only folds with 0 bytes of scratch space are carried out together
SCALARS: Bytes = 128

_known: dict[Any, Bytes] = {}


class Layout(NamedTuple):
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> Layout:
        return Layout(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def zeros(self, device: str) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=device).zero_()

    def within(self, shape: tuple[int, ...]) -> Layout:
        """Returns the layout, without gaps, of a tensor of another shape.

        Its dimensions have the same order in memory as those of this layout.
        """
        step, stride = 1, [0] * len(shape)
        for i in sorted(range(len(shape)), key=self.stride.__getitem__):
            stride[i] = step
            step *= shape[i]
        return Layout(shape, tuple(stride), self.dtype)


def scratch(rule: FoldRule, param: Tensor, grad: Tensor, *, releases: bool) -> Bytes:
    """Returns the most bytes that absorbing a gradient allocates at a time, beside the states.

    Returns 0 if these are at most SCALARS bytes. Runs the rule only once for parameters and
    gradients with the same layouts, and remembers the result.

    Args:
        rule: the rule of the parameter.
        param, grad: the parameter and the gradient, real or fake; only their layouts are read.
        releases: whether absorbing the gradient updates the parameter, too. If not, the gradient is
            only folded, and the bytes of the update in step() do not count.
    """
    specs = rule.state(param)
    device = "cpu" if param.device.type == "meta" else str(param.device)
    layouts = Layout.of(param), Layout.of(grad)
    key = (footprint(rule), specs, layouts, releases, device, settings())
    if key not in _known:
        found = aside(partial(_find, rule, layouts, device, releases))
        _known[key] = found if found > SCALARS else 0
    return _known[key]


def _find(rule: FoldRule, layouts: tuple[Layout, Layout], device: str, releases: bool) -> Bytes:
    param, grad = layouts
    fake = partial(_fake, rule, device=device, releases=releases)
    if not device.startswith("cpu"):
        return fake(param, grad)
    shape = _reduced(param.shape)
    if shape == param.shape:
        return _measured(rule, param, grad, releases)
    small = param.within(shape), grad.within(shape)
    return max(0, _measured(rule, *small, releases) + fake(param, grad) - fake(*small))


def _reduced(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape, with its largest dimensions halved until it has at most WHOLE elements."""
    sizes = list(shape)
    while torch.Size(sizes).numel() > WHOLE:
        i = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[i] = (sizes[i] + 1) // 2
    return tuple(sizes)


def _measured(rule: FoldRule, param: Layout, grad: Layout, releases: bool) -> Bytes:
    run, specs = _absorbing(rule, param, releases)
    operands = _operands(param, grad, specs, "cpu")
    with torch.no_grad():
        return measured_peak(lambda: run(*operands))[0]


def _fake(rule: FoldRule, param: Layout, grad: Layout, *, device: str, releases: bool) -> Bytes:
    run, specs = _absorbing(rule, param, releases)
    with torch.no_grad():
        return fake_peak(partial(_operands, param, grad, specs, device), run)


def _operands(
    param: Layout, grad: Layout, specs: tuple[StateSpec, ...], device: str
) -> list[Tensor]:
    """Returns the tensors that absorbing a gradient takes, complex ones as real views.

    These are a parameter and a gradient of zeros, the states as they start, and the step count.
    """
    own = param.zeros(device)
    found = [own, grad.zeros(device), *(spec.make(own) for spec in specs), STEP.make(own).cpu()]
    return [torch.view_as_real(t) if t.is_complex() else t for t in found]


def _absorbing(
    rule: FoldRule, param: Layout, releases: bool
) -> tuple[Callable[..., None], tuple[StateSpec, ...]]:
    """Returns a function that absorbs a gradient, and the specs of the states that it takes.

    The arguments of the function are the tensors that `_operands` returns.
    """
    specs = rule.state(param.zeros("meta"))
    names = [spec.name for spec in (*specs, STEP)]

    def run(own: Tensor, gradient: Tensor, *tensors: Tensor) -> None:
        state = dict(zip(names, tensors, strict=True))
        if releases or not isinstance(rule, AccumulatingRule):
            rule.release([Update(state, own, gradient, 1)])
        else:
            rule.decay(state, own, 1)
            rule.look(state, own, gradient, 1)
            rule.fold(state, own, gradient, Turn(1, 0, 1.0))

    return run, specs
