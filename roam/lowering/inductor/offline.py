"""Plans the order of Inductor's kernels without generating their code.

    forward ──── scheduler fuses ── order ── no code; the captured forward runs in its place
    backward ─── scheduler fuses ── order ── no code; it never runs

Inductor fuses the nodes of a graph and roam orders them, on tensors without data. Code is neither
generated nor compiled, so no C++ compiler is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from torch import fx
from torch._inductor import config
from torch._inductor.exc import InductorError
from torch._inductor.graph import GraphLowering

from roam.core.errors import OfflineError
from roam.core.folds import Folds
from roam.lowering.aten.plain import plain
from roam.lowering.inductor.kernels import InductorKernels
from roam.lowering.protocol import Boxed, Driver


@dataclass
class OfflineInductorKernels(InductorKernels):
    """A captured graph that is planned for Inductor's kernels, but has no code.

    Its forward runs ATen's operators on tensors without data. Its backward is planned by `plan` and
    never runs.

    Attributes:
        captured_forward: runs the forward with ATen's operators; None before `compile`.
    """

    captured_forward: Boxed | None = None

    @property
    def is_driven(self) -> bool:
        return True

    def compile_inner(
        self, driver: Driver, gm: fx.GraphModule, example_inputs: Sequence[Any], **how: Any
    ) -> Any:
        if not how.get("is_backward"):
            self.captured_forward = plain(gm)  # made before compiling, which changes `gm`
        return super().compile_inner(driver, gm, example_inputs, **how)

    def generate(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], how: dict[str, Any]
    ) -> Any:
        try:
            with no_code(), config.patch(fx_graph_cache=False):
                return super().generate(gm, example_inputs, how)
        except InductorError as error:
            reported = error.inner_exception  # raised by `unplanned`, wrapped by Inductor
            if isinstance(reported, OfflineError):
                raise reported from reported.__cause__
            raise

    def plan(self, args: Sequence[Any], folds: Folds) -> Folds:
        """Plans the backward by compiling it now: no run of it will do so. Returns `folds`."""
        if self.backwards is not None:
            self.backwards.compiled_for(folds)
        return folds

    def plain_forward(self, args: list[Any]) -> Sequence[Any]:
        assert self.captured_forward is not None
        return self.captured_forward(args)


@contextmanager
def no_code() -> Iterator[None]:
    """A context in which Inductor fuses and orders the nodes of graphs, but generates no code."""

    def empty_module(graph: GraphLowering) -> Any:
        graph.init_wrapper_code()
        graph._update_scheduler()  # calls `PlannedOrder`, which plans the graph
        graph.cache_path = os.devnull  # Inductor reads the generated code from this path
        return SimpleNamespace(call=_not_compiled, __file__=os.devnull)

    with patch.object(GraphLowering, "compile_to_module", empty_module):
        yield


def _not_compiled(args: list[Any]) -> Callable[..., Any]:
    raise AssertionError("an offline plan has no code to run")
