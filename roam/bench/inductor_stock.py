"""Turns on Inductor's own memory options while it compiles, for comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.codegen.wrapper import PythonWrapperCodegen


@contextmanager
def recomputing_down_to(share: float) -> Iterator[None]:
    """A context in which the partitioner saves only a share of activations and recomputes the rest.

    share: PyTorch's `activation_memory_budget`.
    """
    with functorch_config.patch(activation_memory_budget=share):
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

    Where it finds nothing to chunk it compiles as usual.

    chunks: how many; None: its own number, which is 8 in torch 2.13.
    """
    with config.patch({"auto_chunker.enable": True, "auto_chunker.num_chunk": chunks}):
        yield
