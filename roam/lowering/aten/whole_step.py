"""Runs a step that was captured as one graph, its backward included, with ATen's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from roam.capture.step_outputs import gradient_values
from roam.core.errors import UnplannableError, WholeStepError
from roam.core.folds import Folds
from roam.lowering.aten.kernels import AtenKernels
from roam.lowering.aten.lowered import Lowered
from roam.lowering.aten.partitioned_graph import Parts
from roam.passes.gradient_release import UPDATED, RunFolds
from roam.passes.pipeline import rewritten
from roam.passes.rewrites.constant_tangents import ConstantTangents


class AtenWholeStep(AtenKernels):
    """A step that was captured as one graph: its ops, and folds of gradients into an optimizer.

    AOTAutograd sees no backward in this graph: the backward's ops are ordinary ops of it.
    """

    def take_forward(self, gm: fx.GraphModule) -> None:
        super().take_forward(gm)
        self.gradient_values = gradient_values(gm.graph, self.gradients)

    def rewritten_alone(self, gm: fx.GraphModule) -> fx.GraphModule:
        late = False
        for node in gm.graph.nodes:  # marks nodes by phase, as AOTAutograd does in joint graphs
            # an op that runs after the backward, such as the detach of the loss, counts as backward
            late = late or node.meta.get("autograd_backward", False)
            node.meta["partitioner_tag"] = "is_backward" if late else "is_forward"
        if self.options.split:
            gm = rewritten((ConstantTangents(),), gm)
        gm = self.rewritten_joint(gm)
        return self.edited(gm, self.take_forward)

    def partition(self, *_: Any, **__: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
        raise WholeStepError("the step changes or returns something that needs a gradient")

    def run(self, planned: Lowered | None, args: list[Any], run: RunFolds) -> Sequence[Any]:
        """Runs the step as planned. If `planned` is None, runs it without a plan and folds nothing.

        Args:
            planned: the plan of the step.
            args: the inputs; emptied.
            run: gets the gradients that the plan folds.
        """
        if planned is None:
            return self.plain_forward(args)
        if planned.folds:
            args.append(run)
        return planned.forward(args)

    def graphs(self, folds: Folds, parts: Parts | None = None) -> list[fx.GraphModule]:
        found = super().graphs(folds, parts)
        if found[0].graph.find_nodes(op="call_function", target=UPDATED):
            raise UnplannableError("a parameter is needed as it was before its update and after it")
        return found
