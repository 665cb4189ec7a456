"""Plans of Inductor's kernels without the kernels: fused and ordered, but neither generated nor
compiled, on tensors without data. No C++ compiler is needed.

    forward ── scheduler fuses ── order ─┬─ stop
                                         └─ the graph as it came runs in its place
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx
from torch._dynamo.exc import ShortenTraceback
from torch._guards import TracingContext
from torch._inductor import config, ir
from torch._inductor.exc import InductorError
from torch._inductor.graph import GraphLowering

from roam.core.errors import OfflineError
from roam.inspect.report import GraphRecord
from roam.lowering.aten.emit import Boxed
from roam.lowering.aten.plain import mark_boxed, plain
from roam.lowering.inductor.folds import Backward, FoldingCompilation
from roam.lowering.inductor.order import Compilation, Nodes
from roam.step.graph_optimizers import Folds
from roam.step.releases import own_saved

Strides = tuple[int, ...] | None
Used = Callable[[Sequence[Any], Mapping[int, Any]], Folds]


class _Ended(BaseException):
    """Ends a compilation whose order is known, or cannot be: nothing on its way may handle it."""


class _OfflineError(ShortenTraceback, OfflineError):
    """An OfflineError that dynamo hands to the user as it is."""


@dataclass
class OfflineCompilation(FoldingCompilation):
    """One graph of dynamo's, planned and not compiled.

    used: for the arguments of a forward that runs, and the gradients of its backward, the folds.
    """

    used: Used = lambda *_: ()
    records: list[GraphRecord] = field(default_factory=list)
    strides: list[Strides] = field(default_factory=list)  # of the results

    def compile_inner(self, gm: fx.GraphModule, example_inputs: Sequence[Any], **how: Any) -> Any:
        if how.get("is_backward"):
            self.backward = Backward(self, gm, tuple(example_inputs), how)
            return self.backward
        runs = plain(gm)  # now: the compilation changes the graph
        self.given = tuple(n.meta.get("val") for n in gm.graph.find_nodes(op="placeholder"))
        findable = own_saved(gm.graph, self.first_saved(gm)) is not None
        Compilation.compile_inner(self, gm, example_inputs, **how)

        def run_forward(args: list[Any]) -> Sequence[Any]:
            if (backward := self.backward) is not None:
                folds = self.used(args, backward.gradient_values) if findable else ()
                backward.compiled_for(folds)
            return runs(args)

        return mark_boxed(run_forward)

    def generate(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], how: dict[str, Any]
    ) -> Boxed | None:
        try:
            with config.patch(fx_graph_cache=False):
                super().generate(gm, example_inputs, how)
        except _Ended as end:
            if end.__cause__ is not None:
                raise end.__cause__ from None
            context = TracingContext.try_get()
            if context is not None and context.output_strides is not None:
                context.output_strides.extend(self.strides)
        return None

    def order(self, graph: GraphLowering, nodes: Nodes) -> Nodes:
        super().order(graph, nodes)
        self.strides = [_strides(graph, out) for out in graph.graph_outputs or ()]
        raise _Ended

    def record(self, graph: GraphRecord) -> None:
        self.records.append(graph)

    def refused(self, error: InductorError) -> None:
        raise _OfflineError(f"{self.name}: {error}", first_useful_frame=None) from error

    def unplanned(self, error: Exception) -> None:
        text = f"{self.name} cannot be planned: {error!r}"
        reason = _OfflineError(text, first_useful_frame=None)
        reason.__cause__ = error
        raise _Ended from reason


def _strides(graph: GraphLowering, out: Any) -> Strides:
    """What AOTAutograd is told of a result, so that the backward expects it the way it will lie."""
    if not isinstance(out, ir.IRNode) or not out.has_tensor_output():
        return None
    return tuple(int(graph.sizevars.optimization_hint(s)) for s in out.get_layout().stride)
