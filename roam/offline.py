"""`roam.plan`: what a training step will take, planned without running it.

Nothing is computed and no weight is there: the model is copied onto fake tensors, which have
shapes and no data, and its graphs go the way that the backend would send them. Only the scratch
space of operators is measured, on zeros, each distinct call once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import Parameter

from roam.core.errors import OfflineError, UnplannableError
from roam.core.problem import Problem
from roam.inspect.report import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.lowering.fake import (
    NEEDS_DATA,
    fake_inputs,
    fake_mode_of,
    fake_model,
    without_fakes,
)
from roam.lowering.step import Step, compile_graph
from roam.lowering.tickets import hooked
from roam.optim.folding import FoldingOptimizer
from roam.options import Options

S = TypeVar("S", bound="_Offline")


def plan(
    model: nn.Module,
    *args: Any,
    loss: Callable[[Any], Tensor] | None = None,
    optimizer: FoldingOptimizer | None = None,
    device: torch.device | str | None = None,
    options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> StepPlan:
    """The plan that `torch.compile(model, backend="roam", options=options)` would run.

    model: a module, real, on the meta device or built under `FakeTensorMode`. args, kwargs: what
    its forward gets. loss: a function of its output, compiled with it; None where the model
    returns the loss. optimizer: one of roam's over the model's parameters: its folds are planned
    and its state is counted, whether it is there yet or not. device: where the step will run, if
    not where the model lies now; this torch must have been built for it. options: as for the
    backend, with its default lowering.

    Every function compiled before in this process is compiled anew when it is called again.
    Raises OptionError, and OfflineError where a graph cannot be planned.
    """
    steps = _trace(_Offline, model, args, kwargs, loss, optimizer, device, options)
    return StepPlan(tuple(r for s in steps for r in s.records))


def problems(
    model: nn.Module,
    *args: Any,
    loss: Callable[[Any], Tensor] | None = None,
    optimizer: FoldingOptimizer | None = None,
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> tuple[Problem, ...]:
    """The Problems of a step, one a graph, captured as `plan` does but not planned.

    Nothing is run, so what operators allocate for themselves counts only where it is known
    without (passes/scratch.py): the Problem is the same on every machine. Takes what `plan`
    takes and raises what `plan` raises.
    """
    steps = _trace(_Unplanned, model, args, kwargs, loss, optimizer, device, None)
    return tuple(p for s in steps for p in s.problems)


def _trace(
    how: type[S],
    model: nn.Module,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    loss: Callable[[Any], Tensor] | None,
    optimizer: FoldingOptimizer | None,
    device: torch.device | str | None,
    options: dict[str, Any] | None,
) -> list[S]:
    """Compiles a copy of the model without data and runs its forward: the steps, one a graph."""
    if not isinstance(model, nn.Module):
        raise OfflineError(f"{model!r} is no torch.nn.Module: only those can be copied unfilled")
    chosen = Options.parse(options, None)
    if optimizer is not None:
        chosen = Options.parse({**(options or {}), "optimizer": optimizer}, None)
    where = None if device is None else torch.device(device)
    _check(chosen, model, where)
    mode = fake_mode_of(model)
    fake = fake_model(mode, model, where)
    inputs, named = fake_inputs(mode, (args, kwargs), where)
    original: dict[Tensor, Parameter] = dict(
        zip(fake.parameters(), model.parameters(), strict=True)
    )
    steps: list[S] = []

    def backend(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        steps.append(how.of(gm, chosen, example_inputs))
        steps[-1].original = original
        return compile_graph(steps[-1], gm, example_inputs)

    def whole(*a: Any, **k: Any) -> Any:
        output = fake(*a, **k)
        return output if loss is None else loss(output)

    torch.compiler.reset()
    try:
        with mode:
            torch.compile(whole, backend=backend)(*inputs, **named)
    except NEEDS_DATA as error:
        raise OfflineError(
            f"{error} depends on values, and offline there are none: run the step, and look at "
            "roam.report().step"
        ) from error
    except UnplannableError as error:
        raise OfflineError(str(error)) from error
    finally:
        torch.compiler.reset()
    return steps


def _check(options: Options, model: nn.Module, device: torch.device | None) -> None:
    """Raises OfflineError for what would be planned otherwise than asked for, or not at all."""
    if options.lowering != "aten":
        raise OfflineError(
            f"lowering {options.lowering!r} is planned when it has compiled its kernels: run the "
            "step, and look at roam.report().step"
        )
    optimizer = options.optimizer
    if optimizer is not None and not any(map(optimizer.holds, model.parameters())):
        raise OfflineError(
            f"the {type(optimizer).__name__} holds no parameter of the model: make it of "
            "model.parameters()"
        )
    built = torch.accelerator.current_accelerator()
    known = ("cpu", "meta", None if built is None else built.type)
    if device is not None and device.type not in known:  # autograd would abort the process
        raise OfflineError(
            f"this torch was built without {device.type}: plan for the CPU, or on a torch that was "
            "built with it"
        )


@dataclass
class _Offline(Step):
    """Plans at the first forward as ever, and runs the graph on what has no data."""

    original: dict[Tensor, Parameter] = field(default_factory=dict)
    records: list[GraphRecord] = field(default_factory=list)

    def run_forward(self, args: list[Any]) -> Sequence[Any]:
        assert self.plain_forward is not None
        folded = self.used(args) if self.own_saved is not None else {}
        with without_fakes():
            self.look_at(args, folded)
        return self.plain_forward(args)

    def look_at(self, args: Sequence[Any], folded: dict[int, Parameter]) -> None:
        self.make_or_raise(args, folded)

    def used(self, args: Sequence[Any]) -> dict[int, Parameter]:
        optimizer = self.options.optimizer
        if optimizer is None or self.backward is None:
            return {}
        found = {i: self.original.get(a) for i, a in enumerate(args) if isinstance(a, Tensor)}
        return {
            i: p
            for i, p in found.items()
            if p is not None and p.requires_grad and optimizer.holds(p) and not hooked(p)
        }

    def record(self, graph: GraphRecord) -> None:
        self.records.append(graph)


@dataclass
class _Unplanned(_Offline):
    """Captures at the first forward, and leaves it at that."""

    problems: list[Problem] = field(default_factory=list)

    def look_at(self, args: Sequence[Any], folded: dict[int, Parameter]) -> None:
        self.problems.append(self.captured(self.graphs(folded), self.numbers(args)).problem)
