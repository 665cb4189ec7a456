"""Turns on Inductor's own memory options while it compiles, for comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx
from torch._functorch import config as functorch_config
from torch._inductor import config, metrics
from torch._inductor.codegen.wrapper import PythonWrapperCodegen
from torch._inductor.custom_graph_pass import CustomRuntimeEstimator

from roam.core.machine import Seconds
from roam.offline import op_seconds


class MeasuredRuntimes(CustomRuntimeEstimator):
    """Tells the partitioner what our measurements tell our own search: the seconds of each op."""

    def __init__(self) -> None:
        self.seconds: dict[fx.Graph, dict[fx.Node, Seconds]] = {}

    def __call__(self, node: fx.Node) -> Seconds:
        if node.graph not in self.seconds:
            self.seconds[node.graph] = op_seconds(node.graph)
        return self.seconds[node.graph].get(node, 0.0)

    def uuid(self) -> None:
        """Costs differ from run to run, so nothing that was compiled with them is kept."""


@contextmanager
def recomputing_down_to(share: float, *, measured: bool = False) -> Iterator[None]:
    """A context in which the partitioner saves only a share of activations and recomputes the rest.

    Args:
        share: PyTorch's `activation_memory_budget`.
        measured: whether it weighs ops by the seconds that we measure, and not by their FLOPs.
    """
    how: dict[str, Any] = {"activation_memory_budget": share}
    if measured:
        how["activation_memory_budget_runtime_estimator"] = MeasuredRuntimes()
    with functorch_config.patch(how):
        yield


@contextmanager
def pooling() -> Iterator[None]:
    """A context in which Inductor uses its memory pools in training too, not only in inference."""
    passes = PythonWrapperCodegen.run_wrapper_ir_passes

    def always(self: PythonWrapperCodegen, is_inference: bool) -> None:
        passes(self, True)

    PythonWrapperCodegen.run_wrapper_ir_passes = always  # type: ignore[method-assign]
    try:
        with config.patch(memory_planning=True):
            yield
    finally:
        PythonWrapperCodegen.run_wrapper_ir_passes = passes  # type: ignore[method-assign]


@contextmanager
def chunking(chunks: int | None = None) -> Iterator[None]:
    """A context in which Inductor's `auto_chunker` splits linear + cross entropy along the rows.

    By default it takes only products that are eight times as large as their inputs. A vocabulary's
    weight is an input, so 2,048 rows of a head would not do. Here it takes any product.

    chunks: how many; None: its own number, which is 8 in torch 2.13.
    """
    how = {"enable": True, "num_chunk": chunks, "amplify_ratio_threshold": 0}
    with config.patch({f"auto_chunker.{name}": value for name, value in how.items()}):
        yield


def has_chunked() -> bool:
    """Returns whether the `auto_chunker` split a graph that this process compiled."""
    return metrics.num_auto_chunking > 0
