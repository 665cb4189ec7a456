"""`roam.compile_step`: forward, backward and update captured as one graph.

    train_step(batch):                     the graph that dynamo makes of it
        loss = model(batch)                    loss = ...
        loss.backward()                        g = torch.autograd.grad(loss, parameters)
        optimizer.step()                       return loss, g, ...     (to be put into .grad)

The gradients that an optimizer of roam's wants are folded instead of returned, as in a compiled
backward. Nothing of the user's runs between forward and backward, and nothing has to be saved for
later: the whole step is one phase of the plan.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import Parameter

from roam.backend import TRACING_ERRORS, can_trace_backward, one_graph
from roam.core.errors import OptionError, UnplannedWarning
from roam.lowering.aten import Boxed
from roam.lowering.pending_forwards import Claims
from roam.lowering.releases import gradient_values
from roam.lowering.step import REWRITES, Step, compile_graph
from roam.lowering.used import Folds, Used
from roam.optim.folding import FoldingOptimizer
from roam.optim.hooks import owner_of
from roam.options import Options


def compile_step(
    train_step: Callable[..., Any], optimizer: FoldingOptimizer, **options: Any
) -> Callable[..., Any]:
    """A training step planned and run as one graph: the same numbers as dropping in, bit for bit.

    train_step: runs the forward, one `loss.backward()` (or `torch.autograd.grad`) and
    `optimizer.step()`. What it returns must not need a gradient (`loss.detach()`). options: as for
    the backend. In mode "accumulate" the update itself, which frees nothing, follows the graph.

    Where the torch at hand cannot trace it, a warning says so, and the model is compiled alone, as
    if dropped in. Raises OptionError.
    """
    given: dict[str, Any] = {"lowering": "aten", **options, "optimizer": optimizer}
    chosen = Options.parse(given, None)
    given["optimizer"] = chosen.optimizer  # a handle
    if chosen.optimizer is None or chosen.lowering == "inductor":
        raise OptionError(
            "compile_step needs one of roam.optim's optimizers and runs ATen's kernels: for others "
            'torch.compile(model, backend="roam", options=...)'
        )

    whole = torch.compile(with_own_cache(train_step), backend=_Backend(chosen), fullgraph=True)
    parts = torch.compile(train_step, backend="roam", options=given)
    return update_wrapper(_CompiledStep(whole, parts, optimizer), train_step)


def with_own_cache(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of the same code and closure whose compiled graphs dynamo keeps apart.

    Dynamo counts them by code object and stops at eight. It compiles a graph in which it has met an
    optimizer for that optimizer alone, so that the ninth training of a sweep would have none.
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
    """Compiles the graph of a whole step. Those of equal options are one backend to dynamo."""

    options: Options

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        step = _WholeStep.of(gm, self.options, example_inputs)
        step.gradients = return_as_they_are(gm)
        return compile_graph(step, gm, example_inputs)


class _CompiledStep:
    """Runs the whole graph; the model alone once the whole could not be captured."""

    def __init__(
        self,
        whole: Callable[..., Any],
        parts: Callable[..., Any],
        optimizer: FoldingOptimizer,
    ) -> None:
        self.whole, self.parts, self.optimizer = whole, parts, optimizer
        self.traceable = can_trace_backward()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        claims = Claims.of(self.optimizer)
        if self.traceable and any(claims.hooked(p) for _, p in self.optimizer.named()):
            self.give_up("dynamo leaves out a hook on a parameter's gradient")
        if self.traceable:
            try:
                with one_graph(), self.optimizer.deferred():
                    return self.whole(*args, **kwargs)
            except TRACING_ERRORS as error:
                self.give_up(error)
        return self.parts(*args, **kwargs)

    def give_up(self, reason: object) -> None:
        self.traceable = False
        text = f"the step is not one graph, so its model is compiled alone: {reason}"
        warnings.warn(text, UnplannedWarning, stacklevel=3)


@dataclass
class _WholeStep(Step):
    """A step whose only graph computes gradients, and folds them."""

    inference_rewrites = REWRITES

    def compile_inference(self, gm: fx.GraphModule, inputs: Sequence[Any]) -> Boxed:
        for node in gm.graph.nodes:  # as the joint graph of a model says it
            late = node.meta.get("autograd_backward", False)
            node.meta["partitioner_tag"] = "is_backward" if late else "is_forward"
        return super().compile_inference(gm, inputs)

    def run_forward(self, args: list[Any]) -> Sequence[Any]:
        assert self.plain_forward is not None
        assert self.forward is not None
        if not self.gradient_values:
            self.gradient_values = gradient_values(self.forward.graph, self.gradients)
        owners: dict[int, tuple[FoldingOptimizer, Parameter]] = {}
        folds: Folds = ()
        for used in Used.of(args, self.gradient_values):
            if (optimizer := used.optimizer()) is not None:
                owners |= {i: (optimizer, args[i]) for i in used.ids}
                folds += used.folds
        lowered = self.lowered_for(args, tuple(sorted(folds)))
        if lowered is None:
            return self.plain_forward(args)
        if lowered.folds:
            for optimizer, p in owners.values():
                optimizer.state_of(p)

            def absorb(i: int, gradient: Tensor) -> None:
                optimizer, p = owners[i]
                optimizer.absorb(p, gradient)

            args.append(absorb)
        return lowered.forward(args)


def return_as_they_are(gm: fx.GraphModule) -> dict[int, int]:
    """Returns optimizers' gradients themselves, where dynamo would return copies of them.

    The copies are what it puts into `.grad`. Returns input -> output, for every such gradient.
    """
    inputs = {n: i for i, n in enumerate(gm.graph.find_nodes(op="placeholder"))}
    output = gm.graph.output_node()
    returned: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    found: dict[int, int] = {}
    for k, copy in enumerate(returned):
        write = _only_write(copy)
        parameter = None if write is None else _parameter_of(write.args[1])
        if write is None or parameter is None or not _is_owned(parameter):
            continue
        found[inputs[parameter]] = k
        returned[k] = write.args[1]
        output.args = (tuple(returned),)
        gm.graph.erase_node(write)
        gm.graph.erase_node(copy)
    gm.recompile()
    return found


def _only_write(copy: Any) -> fx.Node | None:
    """The copy_ that fills an empty tensor, which is then returned and nothing else."""
    if not isinstance(copy, fx.Node) or copy.target is not torch.empty_like:
        return None
    writes = [u for u in copy.users if u.op == "call_method" and u.target == "copy_"]
    return writes[0] if len(writes) == 1 and len(copy.users) == 2 else None


def _parameter_of(gradient: Any) -> fx.Node | None:
    """The input that a result of torch.autograd.grad is the gradient of."""
    if not isinstance(gradient, fx.Node) or gradient.target is not operator.getitem:
        return None
    whole, i = gradient.args
    if not isinstance(whole, fx.Node) or whole.target is not torch.autograd.grad:
        return None
    parameter = whole.args[1][i]  # type: ignore[index]
    return parameter if isinstance(parameter, fx.Node) else None


def _is_owned(placeholder: fx.Node) -> bool:
    example = getattr(placeholder.meta.get("grapharg"), "example", None)
    return isinstance(example, Parameter) and owner_of(example) is not None
