"""Compiles a graph that makes gradients: once for each set of gradients that it folds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import fx
from torch._guards import CompileContext, TracingContext, compile_context, tracing

from roam.capture.step_outputs import gradient_values, releases
from roam.core.folds import Folds
from roam.lowering.inductor.folds import lower_folds
from roam.lowering.inductor.graph_folds import Formulas, Inputs, put_in
from roam.lowering.protocol import Boxed
from roam.passes.fold_rows import FoldRows
from roam.passes.gradient_release import GradientRelease
from roam.passes.pipeline import copied, rewritten


class InGraph(NamedTuple):
    """Compiled code that folds gradients by its own kernels.

    Attributes:
        code: runs the graph. Takes a list of the graph's inputs, followed by those in `added`.
        added: the inputs that the folds added to the graph.
    """

    code: Boxed
    added: Inputs

    def __call__(self, args: list[Any], formulas: Formulas) -> Sequence[Any]:
        # extends the caller's list itself, because `code` empties this list to free the inputs
        self.added.put(formulas, args)
        return self.code(args)


@dataclass
class FoldingGraph:
    """A graph that makes gradients, compiled once for each set of gradients that it folds.

    The graph is the backward of one forward, or a whole step.

    Attributes:
        compile_one: compiles a graph, given with example inputs and `how`; returns its callable.
        given: the fake values of the inputs of the forward, or of the whole step.
        gm: the graph without folds.
        inputs: example inputs of the graph, as compile_fx gave them.
        how: the keyword arguments that compile_fx passed with the graph.
        splits: whether large gradients may be made and folded one block of rows at a time.
        gradients: by index of an input in `given`, the index of the output of the graph that is the
            gradient of this input.
        tracing: torch's TracingContext when compile_fx ran, restored to compile the graph.
        compiling: torch's CompileContext when compile_fx ran, restored to compile the graph.
        compiled: by folded gradients, the version whose folds are calls of the optimizers.
        in_graph: by folded gradients and the kinds of their formulas, the version whose folds are
            kernels; None in its place if the optimizers have to be called.
        lock: held while a version is compiled.
        gradient_values: by index of an input in `given`, the fake value of its gradient.
    """

    compile_one: Callable[[fx.GraphModule, Sequence[Any], dict[str, Any]], Any]
    given: tuple[Any, ...]
    gm: fx.GraphModule
    inputs: tuple[Any, ...]
    how: dict[str, Any]
    splits: bool
    gradients: dict[int, int]
    tracing: TracingContext | None = field(default_factory=TracingContext.try_get)
    compiling: CompileContext | None = field(default_factory=CompileContext.try_get)
    compiled: dict[Folds, Boxed] = field(default_factory=dict)
    in_graph: dict[object, InGraph | None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.gradient_values = gradient_values(self.gm.graph, self.gradients)

    def compiled_for(self, folds: Folds) -> Boxed:
        """Returns the version that folds these gradients by calls of their optimizers.

        Compiles it if it does not exist yet. Without folds, the version returns all gradients.
        """
        with self.lock:
            if folds not in self.compiled:
                gm = self.releasing(folds)
                if folds:
                    gm = rewritten((FoldRows(),), gm) if self.splits else gm
                    lower_folds(gm)
                self.compiled[folds] = self.compile(gm, self.inputs, self.how)
        return self.compiled[folds]

    def compiled_with(self, folds: Folds, formulas: Formulas) -> InGraph | None:
        """Returns the version that folds these gradients by its own kernels (`graph_folds`).

        Compiles it if it does not exist yet. Returns None if the optimizers have to be called.

        Args:
            folds: the gradients.
            formulas: by index of a parameter in `given`, the operators that carry out its fold.
        """
        key = folds, frozenset((i, formula.kind) for i, formula in formulas.items())
        with self.lock:
            if key not in self.in_graph:
                self.in_graph[key] = self.compile_with(folds, formulas)
        return self.in_graph[key]

    def compile_with(self, folds: Folds, formulas: Formulas) -> InGraph | None:
        gm = self.releasing(folds)
        added = put_in(gm, self.inputs, formulas)
        if added is None:
            return None
        fixed = {*self.how.get("static_input_idxs", ()), *added.fixed(len(self.inputs))}
        how = self.how | {"static_input_idxs": sorted(fixed)}
        return InGraph(self.compile(gm, (*self.inputs, *added.values), how), added)

    def releasing(self, folds: Folds) -> fx.GraphModule:
        """Returns a copy of the graph, with an op for the fold of each of these gradients."""
        gm = copied(self.gm)  # because Inductor changes the graphs that it compiles
        if folds:
            # no kernel of Inductor loads states from a tier: the optimizer loads them in the fold
            folds = tuple((i, needs.all_in_memory()) for i, needs in folds)
            GradientRelease(releases(folds, self.given, self.gradients))(gm)
        return gm

    def compile(self, gm: fx.GraphModule, inputs: Sequence[Any], how: dict[str, Any]) -> Boxed:
        with ExitStack() as stack:
            stack.enter_context(tracing(self.tracing))
            if self.compiling is not None:
                stack.enter_context(compile_context(self.compiling))
            compiled: Boxed = self.compile_one(gm, inputs, how)
            return compiled
