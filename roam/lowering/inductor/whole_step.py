"""Compiles a step that was captured as one graph, its backward and folds included, with Inductor.

    dynamo's graph ── AOTAutograd ── one graph without a backward of its own
                                       │ at the first run, when the folds are known
                                       └ gradient release ── fuse ── plan ── one callable

If Inductor runs kernels without Python (`graph_folds.without_python`) and all folds have a formula,
the folds are kernels too, and the whole step is one call of compiled code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._inductor.exc import InductorError

from roam.core.errors import WholeStepError
from roam.core.folds import Folds
from roam.lowering.aten.plain import mark_boxed
from roam.lowering.inductor.folding_graph import FoldingGraph
from roam.lowering.inductor.kernels import InductorKernels
from roam.lowering.protocol import Driver, Folding
from roam.passes.gradient_release import UPDATED

aten = torch.ops.aten


@dataclass
class InductorWholeStep(InductorKernels):
    """Compiles and runs, with Inductor's kernels, a training step that was captured as one graph.

    Attributes:
        gradients: by index of an input that is a parameter, the index of the output that is its
            gradient.
        step: the graph as AOTAutograd traced it, with a compiled version for each set of folds;
            None before `compile` is called.
    """

    gradients: Mapping[int, int] = field(default_factory=dict)
    step: FoldingGraph | None = None

    @property
    def gradient_values(self) -> Mapping[int, Any]:
        assert self.step is not None
        return self.step.gradient_values

    def compile_inner(
        self, driver: Driver, gm: fx.GraphModule, example_inputs: Sequence[Any], **how: Any
    ) -> Any:
        if not how.get("is_inference"):
            raise WholeStepError("the step changes or returns something that needs a gradient")
        if any(_is_used(n) for n in gm.graph.find_nodes(op="call_function", target=UPDATED)):
            raise WholeStepError("a parameter is used after its update")
        self.take_inputs(gm)
        self.step = self.folding_graph(gm, example_inputs, how, self.gradients)
        return mark_boxed(driver.forward)

    def compile_one(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], how: dict[str, Any]
    ) -> Any:
        if gm.graph.find_nodes(op="call_function", target=UPDATED):
            raise WholeStepError("a parameter is needed as it was before its update and after it")
        return super().compile_one(gm, example_inputs, how)

    def run(self, planned: Folds, args: list[Any], run: Folding) -> Sequence[Any]:
        """Runs the step, and returns its results. The first run with a set of folds compiles it.

        Raises:
            WholeStepError: the step cannot be compiled. Nothing has run then.
        """
        assert self.step is not None
        try:
            return self.run_folding(self.step, planned, args, run)
        except InductorError as error:
            raise WholeStepError(f"Inductor cannot compile it: {error}") from error


def _is_used(updated: fx.Node) -> bool:
    """Returns whether an op reads a parameter after its update, other than to write it back.

    updated: the node that returns the updated parameter.
    """
    readers = [user for user in updated.users if user.target is not aten.copy_.default]
    return any(user.target is not aten.copy.default or _is_used(user) for user in readers)
