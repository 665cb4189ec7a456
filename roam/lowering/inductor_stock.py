"""What Inductor itself can do about memory, for comparisons: set for the whole process."""

from __future__ import annotations

from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.codegen.wrapper import PythonWrapperCodegen


def recompute_down_to(share: float) -> None:
    """Activations are recomputed until so much of what the partitioner would save is left."""
    functorch_config.activation_memory_budget = share


def pool() -> None:
    """Turns Inductor's memory pools on in training too, where it leaves them off."""
    config.memory_planning = True
    passes = PythonWrapperCodegen.run_wrapper_ir_passes

    def always(self: PythonWrapperCodegen, is_inference: bool) -> None:
        passes(self, True)

    PythonWrapperCodegen.run_wrapper_ir_passes = always  # type: ignore[method-assign]
