"""What Inductor itself can do about memory, for comparisons: set while it compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.codegen.wrapper import PythonWrapperCodegen


@contextmanager
def recomputing_down_to(share: float) -> Iterator[None]:
    """Activations are recomputed until so much of what the partitioner would save is left."""
    with functorch_config.patch(activation_memory_budget=share):
        yield


@contextmanager
def pooling() -> Iterator[None]:
    """Turns Inductor's memory pools on in training too, where it leaves them off."""
    passes = PythonWrapperCodegen.run_wrapper_ir_passes

    def always(self: PythonWrapperCodegen, is_inference: bool) -> None:
        passes(self, True)

    PythonWrapperCodegen.run_wrapper_ir_passes = always  # type: ignore[method-assign]
    try:
        with config.patch(memory_planning=True):
            yield
    finally:
        PythonWrapperCodegen.run_wrapper_ir_passes = passes  # type: ignore[method-assign]
