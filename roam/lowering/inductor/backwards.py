"""Compiles the backward of a forward once for each set of gradients that it folds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import fx
from torch._guards import CompileContext, TracingContext, compile_context, tracing

from roam.capture.step_outputs import gradient_values, gradients_of, releases
from roam.core.folds import Folds
from roam.lowering.inductor.folds import lower_folds
from roam.lowering.protocol import Boxed
from roam.passes.fold_rows import FoldRows
from roam.passes.gradient_release import GradientRelease
from roam.passes.pipeline import copied, rewritten


@dataclass
class Backwards:
    """The backward of one forward, compiled once for each set of gradients that it folds.

    Attributes:
        compile_one: compiles a graph, given with example inputs and `how`; returns its callable.
        given: the fake values of the forward's inputs.
        gm: the backward without folds.
        inputs: example inputs of the backward, as compile_fx gave them.
        how: the keyword arguments that compile_fx passed with the backward.
        splits: whether large gradients may be made and folded one block of rows at a time.
        tracing: torch's TracingContext when compile_fx ran, restored to compile the backward.
        compiling: torch's CompileContext when compile_fx ran, restored to compile the backward.
        compiled: the compiled backwards, each by the gradients that it folds.
        lock: held while a backward is compiled.
        gradients: by index of an input of the forward, the index of the output of the backward
            that is its gradient.
        gradient_values: by index of an input of the forward, the fake value of its gradient.
    """

    compile_one: Callable[[fx.GraphModule, Sequence[Any], dict[str, Any]], Any]
    given: tuple[Any, ...]
    gm: fx.GraphModule
    inputs: tuple[Any, ...]
    how: dict[str, Any]
    splits: bool
    tracing: TracingContext | None = field(default_factory=TracingContext.try_get)
    compiling: CompileContext | None = field(default_factory=CompileContext.try_get)
    compiled: dict[Folds, Boxed] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.gradients = gradients_of(self.gm.graph)
        self.gradient_values = gradient_values(self.gm.graph, self.gradients)

    def compiled_for(self, folds: Folds) -> Boxed:
        with self.lock:
            if folds not in self.compiled:
                self.compiled[folds] = self.compile(folds)
        return self.compiled[folds]

    def compile(self, folds: Folds) -> Boxed:
        gm = copied(self.gm)  # because Inductor changes the graphs that it compiles
        if folds:
            # Inductor's kernels load no states from a file: the optimizer does, inside the fold
            folds = tuple((i, needs.all_in_memory()) for i, needs in folds)
            GradientRelease(releases(folds, self.given, self.gradients))(gm)
            if self.splits:
                gm = rewritten((FoldRows(),), gm)
            lower_folds(gm)
        with ExitStack() as stack:
            stack.enter_context(tracing(self.tracing))
            if self.compiling is not None:
                stack.enter_context(compile_context(self.compiling))
            compiled: Boxed = self.compile_one(gm, self.inputs, self.how)
            return compiled
