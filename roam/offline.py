"""`roam.plan`: plans the memory of a training step without running it.

It needs no weights: the model is copied onto fake tensors, which have shapes but no data, and its
graphs are compiled as in the backend, up to the generation of code. Only two things are tried with
real tensors, once for each distinct call: the layout of results, and the scratch space of
operators. These tensors take at most 64 MiB together. A call that would take more is tried at
smaller sizes, and its scratch space is an estimate.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from roam.capture.fake_copies import (
    DOES_NOT_RUN,
    NEEDS_DATA,
    fake_inputs,
    fake_mode_of,
    fake_model,
    is_built_for,
    quiet_meta_kernels,
    why_it_does_not_run,
)
from roam.capture.op_costs import OpCosts
from roam.capture.symbolic_sizes import Numbers
from roam.capture.usual_costs import Costs, UsualCosts
from roam.core.described_machines import Machine
from roam.core.errors import BudgetError, OfflineError, OptionError, UnplannableError
from roam.core.machine import Seconds
from roam.core.offload_to import OffloadTo
from roam.core.problem import Problem
from roam.core.sharded import Sharding
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.optim.folding import FoldingOptimizer
from roam.options import Options, Rewrite
from roam.step.loss_check import check_loss
from roam.step.offline import (
    Original,
    capture_graph,
    one_rank,
    plan_graph,
    usual_lowering,
)

Compiled = Callable[..., Any]
# compiles one captured graph; the last argument gives the parameters that the inputs stand for
Compile = Callable[[fx.GraphModule, Sequence[Any], Original], Compiled]


def plan(
    model: nn.Module,
    *args: Any,
    loss: Callable[[Any], Tensor] | None = None,
    optimizer: FoldingOptimizer | None = None,
    device: torch.device | str | None = None,
    lowering: str | None = None,
    options: dict[str, Any] | None = None,
    budget: str | int | None = None,
    offload: str | OffloadTo | dict[str, str | OffloadTo] | None = None,
    rewrites: Sequence[str | Rewrite] | None = None,
    machine: str | Machine | None = None,
    measure_costs: bool = False,
    mesh: Sharding | int | None = None,
    **kwargs: Any,
) -> StepPlan:
    """Returns the plan that `torch.compile(model, backend="roam", options=options)` would run.

    Args:
        model: a module: real, on the meta device, or built under `FakeTensorMode`.
        args, kwargs: the arguments of its forward.
        loss: a function of its output, compiled with it; None if the model returns the loss.
        optimizer: one of roam.optim with the model's parameters. Its folds are planned, and its
            state counts, whether it exists yet or not.
        device: where the step will run, if not where the model is now. If this torch was built
            without the device, the plan is of the CPU's operators, with a warning: sizes and
            alignment are the device's, but scratch space and fused operators may differ.
        lowering: as the option of that name, which takes precedence. Inductor's kernels are neither
            generated nor compiled. By default they are planned even if Inductor does not work on
            this machine.
        options: as `torch.compile`'s; `lowering` among them takes precedence.
        budget: as the option of that name, which takes precedence. If it is a size and the model
            has several graphs, the plan is that of the first step: later ones may run less again.
        offload: as the option of that name, which takes precedence.
        rewrites: as the option of that name, which takes precedence.
        machine: plans for a machine that is not at hand: a name (core/described_machines.py) or a
            description. Ops take what its rates say, and tensors move at the rates of its tier,
            if the option does not state others; nothing is measured and no folder is touched.
            What is reported of time is then called simulated.
        measure_costs: runs each distinct op to see how long it takes, for two seconds in all, on
            operands of up to 1 GiB. By default, and for ops that were not run, costs are those that
            this machine has measured before, or else estimates.
        mesh: how many ranks share each parameter (fully_shard, FSDP2), or a `Sharding`: plans what
            one of them takes, with ATen's kernels and without a budget.

    Raises:
        OptionError: an option is unknown or has a wrong value, or no such machine is described.
        BudgetError: the step cannot keep the budget.
        OfflineError: a graph cannot be planned, an operator refuses its arguments, or the loss is
            no scalar or trains nothing.
    """
    named = {} if optimizer is None else {"optimizer": optimizer}
    Options.parse({**options, **named} if isinstance(options, dict) else options, None)
    options = {"lowering": lowering, **(options or {}), **named}
    if budget is not None:
        options.setdefault("budget", budget)
    if offload is not None:
        options.setdefault("offload", offload)
    if rewrites is not None:
        options.setdefault("rewrites", rewrites)
    chosen = Options.parse(options, None)
    if mesh is not None:
        if chosen.budget or chosen.offload or chosen.lowering == "inductor":
            raise OptionError(
                "mesh plans a rank with ATen's kernels, without a budget and without offload"
            )
        chosen = dataclasses.replace(chosen, lowering="aten")
    described = None if machine is None else Machine.of(machine)
    if described is not None:
        if measure_costs:
            raise OptionError(f"{described.name} is not at hand: leave out measure_costs")
        device = device or described.device
        if (to := chosen.offload) is not None:
            chosen = dataclasses.replace(chosen, offload=to.at(described.write, described.read))
    if chosen.lowering is None:
        chosen = dataclasses.replace(chosen, lowering=usual_lowering(device))
    stands_for, where = _device(device, chosen.lowering)
    costs: Costs | None = None
    if described is not None:
        costs = UsualCosts(described.rates_of)
    elif stands_for is None:
        costs = OpCosts(measure=measure_costs)
    records: list[GraphRecord] = []

    def compile(gm: fx.GraphModule, example_inputs: Sequence[Any], original: Original) -> Compiled:
        return plan_graph(gm, example_inputs, chosen, original, stands_for, costs, records)

    _run(compile, model, args, kwargs, loss, optimizer, where)
    if mesh is not None:
        how = mesh if isinstance(mesh, Sharding) else Sharding(mesh)
        records = [one_rank(record, how, chosen.planning_seconds) for record in records]
    name = "" if described is None else described.name
    return StepPlan(tuple(dataclasses.replace(record, machine=name) for record in records))


def problems(
    model: nn.Module,
    *args: Any,
    loss: Callable[[Any], Tensor] | None = None,
    optimizer: FoldingOptimizer | None = None,
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> tuple[Problem, ...]:
    """Returns the Problems of a step, one for each graph, captured as in `plan` but not planned.

    Measures no scratch space: it counts only if it is known in advance
    (passes/annotations/scratch.py). So the Problem is the same on every machine whose kernels
    return results in the same layouts. Takes the arguments of `plan` and raises its errors.
    """
    chosen = Options(optimizer=None if optimizer is None else optimizer.handle)
    stands_for, where = _device(device, "aten")
    found: list[Problem] = []

    def compile(gm: fx.GraphModule, example_inputs: Sequence[Any], original: Original) -> Compiled:
        return capture_graph(gm, example_inputs, chosen, original, stands_for, found)

    _run(compile, model, args, kwargs, loss, optimizer, where)
    return tuple(found)


def op_seconds(graph: fx.Graph) -> dict[fx.Node, Seconds]:
    """Measures the ops of a traced graph on this machine, as plans with a budget do.

    Takes some seconds at most; what is left then is estimated. Ops on absent devices are left out.
    """
    return {n: cost.seconds for n, cost in OpCosts(measure=True).of([graph], Numbers()).items()}


def _device(
    device: torch.device | str | None, lowering: str | None
) -> tuple[torch.device | None, torch.device | None]:
    """Returns the device that another one stands for, if any, and the one to capture on.

    Raises:
        OfflineError: this torch was built without the device, and Inductor's kernels are wanted.
    """
    where = None if device is None else torch.device(device)
    if where is None or is_built_for(where):
        return None, where
    text = f"this torch was built without {where.type}"
    if lowering == "inductor":
        raise OfflineError(f"{text}: no kernels can be planned for it; use lowering='aten'")
    warnings.warn(f"{text}: the CPU's operators are planned", UserWarning, stacklevel=3)
    return where, torch.device("cpu")


def _run(
    compile: Compile,
    model: nn.Module,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    loss: Callable[[Any], Tensor] | None,
    optimizer: FoldingOptimizer | None,
    where: torch.device | None,
) -> None:
    """Compiles a copy of the model without data, and runs its forward."""
    if not isinstance(model, nn.Module):
        raise OfflineError(f"{model!r} is no torch.nn.Module: only those can be copied unfilled")
    _check(optimizer, model)
    mode = fake_mode_of(model)
    fake = fake_model(mode, model, where)
    inputs, named = fake_inputs(mode, (args, kwargs), where)
    original: Original = dict(zip(fake.parameters(), model.parameters(), strict=True))

    def backend(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        return compile(gm, example_inputs, original)

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
    except BudgetError as error:
        text = str(error).partition("\n\n")[0]  # dynamo adds what its developers would do
        raise BudgetError(text, budget=error.budget, found=error.found, least=error.least) from None
    finally:
        torch.compiler.reset()
    check_loss(output, "the output of the model" if loss is None else "the loss")


def _check(optimizer: FoldingOptimizer | None, model: nn.Module) -> None:
    """Raises OfflineError for an optimizer that another model's step would need."""
    if optimizer is not None and not any(map(optimizer.holds, model.parameters())):
        raise OfflineError(
            f"the {type(optimizer).__name__} holds no parameter of the model: make it of "
            "model.parameters()"
        )
