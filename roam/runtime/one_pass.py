"""Carries out a formula of elements in one pass over memory, by a kernel that Inductor makes.

    eager       every operator reads its operands from the cache and writes its result there
    compiled    a loop reads the tensors once, computes in registers, and writes them once

A formula changes its tensors in place, and returns nothing. It is compiled at the first call with
large tensors, in seconds, and once for each combination of dtypes, for all sizes. Inductor keeps
the kernel on disk.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import Parameter

from roam.runtime.isolation import apart

log = logging.getLogger("roam")

Formula = Callable[..., None]

# Inductor's, for the kernel alone: it may be made in the middle of compiling the user's graph, for
# which other passes and settings are on
SETTINGS = {
    "emulate_precision_casts": True,  # rounds to bfloat16 where the formula does
    "realize_opcount_threshold": 1000,  # keeps no result of an operator in memory: one pass
    "realize_reads_threshold": 100,
    "realize_acc_reads_threshold": 100,
    "_pre_fusion_custom_pass": None,
    "_post_fusion_custom_pass": None,
    "joint_custom_pre_pass": None,
    "custom_partitioner_fn": None,
}
LARGE = 2**18  # elements from which on a kernel gains more than a call of it costs
PART = 2**20  # elements that a kernel is called for, so that what it allocates has a limit


class OnePass:
    """A formula, and the kernels made of it.

    formula: takes tensors, or None for those that it can do without.
    """

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.compiles = True  # until it is found that it does not
        self._kernels: dict[object, Formula | None] = {}  # None: it cannot be compiled
        self._lock = threading.Lock()

    def __call__(self, *tensors: Tensor | None) -> None:
        """Changes the tensors by the formula: large ones by a kernel, if there is one."""
        if not self.by_kernel(*tensors):
            self.formula(*tensors)

    def by_kernel(self, *tensors: Tensor | None) -> bool:
        """Changes the tensors by a kernel, if there is one. Returns whether there is."""
        kernel = self.kernel(*tensors)
        if kernel is not None:
            kernel(*tensors)
        return kernel is not None

    def kernel(self, *tensors: Tensor | None) -> Formula | None:
        """Returns a kernel for tensors like these, which it changes; None if there is none.

        There is none for small tensors, fake ones and those of a subclass, and none where Inductor
        fails, which is logged.
        """
        given = [t for t in tensors if t is not None]
        if given[0].numel() < LARGE or any(type(t) not in (Tensor, Parameter) for t in given):
            return None
        key = torch.get_num_threads(), *(None if t is None else _kind(t) for t in tensors)
        with self._lock:
            if key not in self._kernels:
                self._kernels[key] = self._compiled(tensors)
        return self._kernels[key]

    def _compiled(self, tensors: tuple[Tensor | None, ...]) -> Formula | None:
        try:
            return apart(lambda: _compile(self.formula, tensors))
        except Exception as error:
            log.warning("%s runs without a kernel of its own: %r", self.formula.__name__, error)
            self.compiles = False
            return None


def _compile(formula: Formula, tensors: tuple[Tensor | None, ...]) -> Formula:
    """Returns a kernel for tensors of these dtypes, and of any sizes but the last.

    Leaves dynamo out: it may be at work on the user's model in the thread that waits.
    """
    # importing the compiler takes a second: only for those who need it
    from torch._dynamo.source import ConstantSource
    from torch._guards import TracingContext, tracing
    from torch._inductor import standalone_compile
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    there = [i for i, t in enumerate(tensors) if t is not None]
    fake = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False))  # equal sizes may differ later

    def as_symbols(i: int) -> Tensor:
        given: Any = tensors[i]
        sizes = [DimDynamic.DYNAMIC] * (given.dim() - 1) + [DimDynamic.STATIC] * (given.dim() > 0)
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        return fake.from_tensor(given, symbolic_context=context, source=ConstantSource(f"t{i}"))

    def run(*own: Tensor) -> list[Tensor]:
        all_of_them: list[Tensor | None] = [None] * len(tensors)
        for i, t in zip(there, own, strict=True):
            all_of_them[i] = t
        formula(*all_of_them)
        return []

    inputs: list[Any] = [as_symbols(i) for i in there]
    with fake:
        graph = make_fx(run)(*inputs)
    with tracing(TracingContext(fake)):
        compiled: Any = standalone_compile(
            graph,
            inputs,
            dynamic_shapes="from_tracing_context",
            options={"config_patches": SETTINGS},
        )

    def kernel(*given: Tensor | None) -> None:
        compiled(*[given[i] for i in there])

    return kernel


def _kind(tensor: Tensor) -> tuple[object, ...]:
    """Returns all of a tensor that a kernel may depend on: of most sizes, whether they are 1."""
    ones = tuple([size == 1 for size in tensor.shape])
    return tensor.dtype, tensor.device, ones, tensor.shape[-1:], tensor.is_contiguous()
