"""`roam.compile_step`: forward, backward and update captured as one graph.

    train_step(batch):                     the graph that dynamo makes of it
        loss = model(batch)                    loss = ...
        loss.backward()                        g = torch.autograd.grad(loss, parameters)
        optimizer.step()                       return loss, g, ...     (to be put into .grad)

The gradients of a roam optimizer's parameters are folded instead of returned, as in a compiled
backward. No user code runs between forward and backward, and nothing has to be saved for later: the
whole step is one phase of the plan. Other ops of the step on its parameters, such as averaging them
after the update, read the same values as in eager (`roam/capture/captured_step.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.nn import Parameter

from roam.capture import traced_values
from roam.capture.captured_step import place_updates
from roam.capture.graph_names import DynamoGraph
from roam.capture.whole_program import TRACING_ERRORS, can_trace_backward, one_graph
from roam.core.budget import Beside
from roam.core.errors import (
    GraphsDifferError,
    MissingRankError,
    OptionError,
    UnplannedWarning,
    WholeStepError,
)
from roam.core.folds import Folds
from roam.core.problem import Problem
from roam.lowering.aten.whole_step import AtenWholeStep
from roam.lowering.inductor.entry import may_fold
from roam.lowering.protocol import Folding, Kernels
from roam.optim.folding import FoldingOptimizer
from roam.options import Options
from roam.step.graph_optimizers import FoldsOfOptimizers, Needs, Used, needs_of
from roam.step.pending_forwards import Claims
from roam.step.rank_agreement import agreed
from roam.step.reports import RunningReports


def compile_step(
    train_step: Callable[..., Any], optimizer: FoldingOptimizer, **options: Any
) -> Callable[..., Any]:
    """Compiles a training step as one graph.

    With ATen's kernels the results have the same bits as with the backend alone.

    If torch cannot trace the step, or the step does things that one graph cannot do in the same
    order (changes a learning rate, reads the optimizer's state, updates a parameter twice), warns
    before anything has run, and compiles only the model.

    Args:
        train_step: runs the forward, one `loss.backward()` (or `torch.autograd.grad`) and
            `optimizer.step()`. Its results must not need a gradient (`loss.detach()`).
        optimizer: one of roam.optim. In mode "accumulate" the update itself, which frees nothing,
            happens after the graph.
        options: as for the backend, but that the lowering is "aten" if none is given. With
            "inductor" and mode="reduce-overhead", the step is one call of compiled code, if the
            optimizer has formulas (roam/optim/README.md), and a CUDA graph on a GPU.

    Raises:
        OptionError: an option is unknown or has a wrong value, `optimizer` is none of roam.optim,
            or a budget is asked for with Inductor's kernels.
    """
    given: dict[str, Any] = {"lowering": "aten", **options, "optimizer": optimizer}
    chosen = Options.parse(given, None)
    given["optimizer"] = chosen.optimizer  # a handle
    if chosen.optimizer is None:
        raise OptionError(
            "compile_step needs one of roam.optim's optimizers: for others "
            'torch.compile(model, backend="roam", options=...)'
        )
    if chosen.lowering == "inductor" and chosen.budget is not None:
        raise OptionError("compile_step keeps a budget with ATen's kernels: leave lowering out")

    whole = torch.compile(with_own_cache(train_step), backend=_Backend(chosen), fullgraph=True)
    parts = torch.compile(train_step, backend="roam", options=given)
    return update_wrapper(_CompiledStep(whole, parts, optimizer), train_step)


def with_own_cache(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of the same code and closure whose compiled graphs dynamo keeps apart.

    Dynamo counts compiled graphs by code object and stops at eight. A graph that contains an
    optimizer is compiled for that optimizer alone, so the ninth training of a sweep would have no
    compiled graph.
    """
    if not isinstance(function, FunctionType):
        return function
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    own.__kwdefaults__ = function.__kwdefaults__
    return update_wrapper(own, function)


@dataclass(frozen=True)
class _Backend:
    """Compiles the graph of a whole step. Dynamo takes backends with equal options for one."""

    options: Options

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        optimizer = None if self.options.optimizer is None else self.options.optimizer()
        if optimizer is None:
            raise WholeStepError("its optimizer is gone")
        graph = DynamoGraph.of(gm, example_inputs)
        options = agreed(self.options, graph, gm, example_inputs)
        gradients = place_updates(gm, optimizer)
        kernels = _kernels(graph, options, gradients)
        step = _WholeStep(kernels, optimizer.writes_parameters, needs_of(self.options))
        compiled = kernels.compile(gm, example_inputs, step)
        traced_values.free(gm)
        return compiled


def _kernels(graph: DynamoGraph, options: Options, gradients: dict[int, int]) -> _Kernels:
    reports = RunningReports(graph.compile_id)
    if options.lowering == "inductor":
        from roam.lowering.inductor.whole_step import InductorWholeStep  # takes a second to import

        if not may_fold(options):
            raise WholeStepError("Inductor's kernels fold no gradients with this version of torch")
        return InductorWholeStep(graph, options, reports, may_fold=True, gradients=gradients)
    kernels = AtenWholeStep(graph, options, reports)
    kernels.gradients = gradients
    return kernels


class _CompiledStep:
    """Runs the step as one graph, or with only the model compiled if capturing the step failed."""

    def __init__(
        self,
        whole: Callable[..., Any],
        parts: Callable[..., Any],
        optimizer: FoldingOptimizer,
    ) -> None:
        self.whole, self.parts, self.optimizer = whole, parts, optimizer
        self.traceable = can_trace_backward()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.traceable:
            self.look_at_parameters()
        if self.traceable:
            try:
                with one_graph(), self.optimizer.deferred():
                    return self.whole(*args, **kwargs)
            except (GraphsDifferError, MissingRankError):
                raise  # tried in parts, the step would only wait for the other ranks again
            except (*TRACING_ERRORS, WholeStepError) as error:
                self.give_up(getattr(error, "inner_exception", error))
        return self.parts(*args, **kwargs)

    def look_at_parameters(self) -> None:
        claims = Claims.of(self.optimizer)
        for name, p in self.optimizer.named():
            if claims.hooked(p):
                return self.give_up("dynamo leaves out a hook on a parameter's gradient")
            if p.grad is not None:
                return self.give_up(f"{name} has a gradient from before the step")
        return None

    def give_up(self, reason: object) -> None:
        self.traceable = False
        text = f"the step is not one graph, so its model is compiled alone: {reason}"
        warnings.warn(text, UnplannedWarning, stacklevel=3)


class _Kernels(Kernels, Protocol):
    """What compiles and runs a step of one graph."""

    @property
    def gradients(self) -> Mapping[int, int]:
        """By input that is a parameter, the output that is its gradient."""
        ...

    def run(self, planned: Any, args: list[Any], run: Folding) -> Sequence[Any]:
        """Runs the step by its plan; without a plan, and folding nothing, if `planned` is None."""
        ...


@dataclass
class _WholeStep:
    """Runs the one graph of a step.

    Attributes:
        updates: whether the graph itself updates the parameters whose gradients it folds.
        needs: returns what a plan has to know of a fold.
    """

    kernels: _Kernels
    updates: bool
    needs: Needs

    def forward(self, args: list[Any]) -> Sequence[Any]:
        owners: dict[int, tuple[FoldingOptimizer, Parameter]] = {}
        folds: Folds = ()
        for used in Used.of(args, self.kernels.gradient_values, self.needs):
            if (optimizer := used.optimizer()) is not None:
                owners |= {i: (optimizer, args[i]) for i in used.ids}
                folds += used.folds
        planned = self.kernels.plan(args, tuple(sorted(folds)))
        if self.updates and (planned is None or owners.keys() != self.kernels.gradients.keys()):
            raise WholeStepError("its updates cannot be made in its graph")
        run = _RunFolds(owners)
        if planned is not None and self.kernels.folds(planned):
            for optimizer, own in run.by_optimizer():
                Claims.of(optimizer).note_folded(optimizer, [*own.values()])
        return self.kernels.run(planned, args, run)

    def expected_folds(self, args: Sequence[Any]) -> Folds:
        used = Used.of(args, self.kernels.gradient_values, self.needs)
        return tuple(sorted(fold for each in used for fold in each.folds))

    def beside(self, args: Sequence[Any], problem: Problem, *, earlier: bool = False) -> Beside:
        return Beside()  # one graph is the whole step

    def backward(self, args: list[Any]) -> Sequence[Any]:
        raise AssertionError("a whole step has no backward of its own")


@dataclass(frozen=True)
class _RunFolds(FoldsOfOptimizers):
    """The folds of one run of a whole step.

    owners: by index of an input that is a parameter, its optimizer and the parameter.
    """

    owners: Mapping[int, tuple[FoldingOptimizer, Parameter]]

    def by_optimizer(self) -> Iterator[tuple[FoldingOptimizer, Mapping[int, Parameter]]]:
        for optimizer in {o: None for o, _ in self.owners.values()}:
            yield optimizer, {i: p for i, (o, p) in self.owners.items() if o is optimizer}

    def absorb(self, gradients: Sequence[tuple[int, Tensor]]) -> None:
        for i, gradient in gradients:
            self.absorb_with(i, gradient, {})

    def absorb_with(self, index: int, gradient: Tensor, states: Mapping[str, Tensor]) -> None:
        optimizer, p = self.owners[index]
        optimizer.absorb_all([(p, gradient)], states)

    def absorb_rows(self, index: int, gradient: Tensor, start: int) -> None:
        optimizer, p = self.owners[index]
        optimizer.absorb_rows(p, gradient, start)

    def stored(self, index: int, state: str) -> Tensor:
        optimizer, p = self.owners[index]
        return optimizer.ticket(p, state)
