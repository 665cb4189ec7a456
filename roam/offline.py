"""`roam.plan`: what a training step will take, planned without running it.

Nothing is computed and no weight is there: the model is copied onto fake tensors, which have
shapes and no data, and its graphs go the way that the backend would send them, until there is code
to generate. Only what the kernels decide is tried, each distinct call once, in tensors that take no
more than 64 MiB together: where results lie, and how much scratch space operators need. A call
that would take more is tried smaller, and its scratch space is an estimate.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from msgspec.structs import replace
from torch import Tensor, fx, nn
from torch.nn import Parameter

from roam.backend import inductor_for
from roam.capture.fake_copies import (
    DOES_NOT_RUN,
    NEEDS_DATA,
    fake_inputs,
    fake_mode_of,
    fake_model,
    quiet_meta_kernels,
    why_it_does_not_run,
    without_fakes,
)
from roam.capture.fx_problem import ALIGNMENT, Captured
from roam.capture.graph_names import graph_name
from roam.capture.scratch_probe import Scratch
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import OfflineError, UnplannableError
from roam.core.problem import Problem
from roam.inspect.report import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.optim.folding import FoldingOptimizer
from roam.options import Options
from roam.step.driver import Step, compile_graph
from roam.step.graph_optimizers import Folds, Used
from roam.step.loss_check import check_loss
from roam.step.pending_forwards import left_whole

if TYPE_CHECKING:
    from roam.lowering.inductor.offline import OfflineCompilation

S = TypeVar("S")
Original = dict[Tensor, Parameter]  # by their copies without data
Start = Callable[[fx.GraphModule, Sequence[Any], Options, Original], tuple[S, Callable[..., Any]]]


class _Recorded(Protocol):
    records: list[GraphRecord]


def plan(
    model: nn.Module,
    *args: Any,
    loss: Callable[[Any], Tensor] | None = None,
    optimizer: FoldingOptimizer | None = None,
    device: torch.device | str | None = None,
    lowering: str | None = None,
    options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> StepPlan:
    """The plan that `torch.compile(model, backend="roam", options=options)` would run.

    model: a module, real, on the meta device or built under `FakeTensorMode`. args, kwargs: what
    its forward gets. loss: a function of its output, compiled with it; None where the model
    returns the loss. optimizer: one of roam's over the model's parameters: its folds are planned
    and its state is counted, whether it is there yet or not. device: where the step will run, if
    not where the model lies now. A torch that was built without that device captures what the CPU
    would run, and a warning says so: sizes and alignment are the device's, scratch space and the
    choice of fused operators need not be. lowering: as in the options, which go before it;
    Inductor's kernels are neither generated nor compiled, and unasked they are planned whether or
    not this machine could.

    Every function compiled before in this process is compiled anew when it is called again.
    Raises OptionError, and OfflineError where a graph cannot be planned, an operator refuses its
    arguments, or the loss is no scalar or trains nothing.
    """
    Options.parse(options, None)
    options = {"lowering": lowering, **(options or {})}
    if optimizer is not None:
        options["optimizer"] = optimizer
    chosen = Options.parse(options, None)
    if chosen.lowering is None:
        chosen = dataclasses.replace(chosen, lowering=_usual_lowering(device))
    steps = _trace(_start, model, args, kwargs, loss, chosen, device)
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

    No scratch space is measured, so what operators allocate for themselves counts only where it
    is known without (passes/scratch.py): the Problem is the same on every machine whose kernels
    write their results alike. Takes what `plan` takes and raises what `plan` raises.
    """
    chosen = Options(optimizer=None if optimizer is None else optimizer.handle)
    steps = _trace(_Unplanned.start, model, args, kwargs, loss, chosen, device)
    return tuple(p for s in steps for p in s.problems)


def _trace(
    start: Start[S],
    model: nn.Module,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    loss: Callable[[Any], Tensor] | None,
    options: Options,
    device: torch.device | str | None,
) -> list[S]:
    """Compiles a copy of the model without data and runs its forward: the steps, one a graph."""
    if not isinstance(model, nn.Module):
        raise OfflineError(f"{model!r} is no torch.nn.Module: only those can be copied unfilled")
    _check(None if options.optimizer is None else options.optimizer(), model)
    where = None if device is None else torch.device(device)
    stands_for = None
    if where is not None and not _is_built_for(where):
        stands_for, where = where, torch.device("cpu")
        text = f"this torch was built without {stands_for.type}"
        if options.lowering == "inductor":
            raise OfflineError(f"{text}: no kernels can be planned for it; use lowering='aten'")
        warnings.warn(f"{text}: the CPU's operators are planned", UserWarning, stacklevel=3)
    mode = fake_mode_of(model)
    fake = fake_model(mode, model, where)
    inputs, named = fake_inputs(mode, (args, kwargs), where)
    original: Original = dict(zip(fake.parameters(), model.parameters(), strict=True))
    steps: list[S] = []

    def backend(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        step, compiled = start(gm, example_inputs, options, original)
        if isinstance(step, _Offline):
            step.stands_for = stands_for
        steps.append(step)
        return compiled

    def whole(*a: Any, **k: Any) -> Any:
        output = fake(*a, **k)
        return output if loss is None else loss(output)

    torch.compiler.reset()
    try:
        with mode, quiet_meta_kernels():
            output = torch.compile(whole, backend=backend)(*inputs, **named)
    except DOES_NOT_RUN as error:
        raise OfflineError(f"the step does not run, {why_it_does_not_run(error)}") from error
    except NEEDS_DATA as error:
        raise OfflineError(
            f"{error} depends on values, and offline there are none: run the step, and look at "
            "roam.report().step"
        ) from error
    except UnplannableError as error:
        raise OfflineError(str(error)) from error
    finally:
        torch.compiler.reset()
    check_loss(output, "the output of the model" if loss is None else "the loss")
    return steps


def _check(optimizer: FoldingOptimizer | None, model: nn.Module) -> None:
    """Raises OfflineError for an optimizer that another model's step would need."""
    if optimizer is not None and not any(map(optimizer.holds, model.parameters())):
        raise OfflineError(
            f"the {type(optimizer).__name__} holds no parameter of the model: make it of "
            "model.parameters()"
        )


def _usual_lowering(device: torch.device | str | None) -> str:
    """As the backend chooses, where this machine had all that Inductor needs."""
    from roam.lowering.inductor.needs import DEVICES  # takes a second to import

    known = device is None or (torch.device(device).type in DEVICES and _is_built_for(device))
    return "inductor" if known else "aten"


def _is_built_for(device: torch.device | str) -> bool:
    """Without it, autograd would abort the process, even where nothing has data."""
    built = torch.accelerator.current_accelerator()
    return torch.device(device).type in ("cpu", "meta", None if built is None else built.type)


def _start(
    gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options, original: Original
) -> tuple[_Recorded, Callable[..., Any]]:
    inductor = inductor_for(options, example_inputs)
    if inductor is not None:
        folds = inductor.folds(options)
        try:
            return _start_inductor(gm, example_inputs, options, original, folds=folds)
        except inductor.REFUSALS as error:
            inductor.say_refused(graph_name(gm), error)
    return _Offline.start(gm, example_inputs, options, original)


def _start_inductor(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    original: Original,
    *,
    folds: bool,
) -> tuple[OfflineCompilation, Callable[..., Any]]:
    from roam.lowering.inductor.offline import OfflineCompilation

    used = partial(_used, original) if folds else lambda *_: ()
    step = OfflineCompilation.of(gm, options, example_inputs, used=used)
    return step, step.run(gm, example_inputs)


def _used(original: Original, args: Sequence[Any], gradients: Mapping[int, Any]) -> Folds:
    """What is folded by a graph whose inputs are copies of parameters."""
    found = [original.get(a) if isinstance(a, Tensor) else None for a in args]
    free = [p if p is not None and not left_whole(p) else None for p in found]
    return tuple(sorted(fold for used in Used.of(free, gradients) for fold in used.folds))


@dataclass
class _Offline(Step):
    """Plans at the first forward as ever, and runs the graph on what has no data."""

    original: Original = field(default_factory=dict)
    records: list[GraphRecord] = field(default_factory=list)
    stands_for: torch.device | None = None  # where the tensors shall lie, if torch has no such

    @classmethod
    def start(
        cls,
        gm: fx.GraphModule,
        example_inputs: Sequence[Any],
        options: Options,
        original: Original,
    ) -> tuple[Self, Callable[..., Any]]:
        step = cls.of(gm, options, example_inputs)
        step.original = original
        return step, compile_graph(step, gm, example_inputs)

    def run_forward(self, args: list[Any]) -> Sequence[Any]:
        assert self.plain_forward is not None
        folds = self.used(args) if self.own_saved is not None else ()
        with without_fakes():
            self.look_at(args, folds)
        return self.plain_forward(args)

    def look_at(self, args: Sequence[Any], folds: Folds) -> None:
        self.make_or_raise(args, folds)

    def used(self, args: Sequence[Any]) -> Folds:
        if self.backward is None or self.options.optimizer is None:
            return ()
        return _used(self.original, args, self.gradient_values)

    def scratch(self, graphs: Sequence[fx.GraphModule], numbers: Numbers) -> dict[fx.Node, Scratch]:
        return {} if self.stands_for is not None else super().scratch(graphs, numbers)

    def captured(self, *given: Any) -> Captured:
        found = super().captured(*given)
        if self.stands_for is not None:
            align = ALIGNMENT.get(self.stands_for.type, 64)
            buffers = (replace(b, align=align) for b in found.problem.buffers)
            found.problem = replace(found.problem, buffers=tuple(buffers))
        return found

    def record(self, graph: GraphRecord, instead_of: GraphRecord | None = None) -> None:
        self.records.append(graph)


@dataclass
class _Unplanned(_Offline):
    """Captures at the first forward, and leaves it at that."""

    problems: list[Problem] = field(default_factory=list)

    def look_at(self, args: Sequence[Any], folds: Folds) -> None:
        self.problems.append(self.captured(self.graphs(folds), self.numbers(args)).problem)
