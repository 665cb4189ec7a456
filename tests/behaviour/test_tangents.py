"""Who else holds what a compiled backward is given, and what a compiled graph returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import roam
from roam.core.lifetime import find_reuse
from roam.core.plan import Plan
from roam.core.problem import Kind, Problem
from roam.optim import AdamA
from tests.helpers import (
    Compile,
    assert_equal,
    compiler,
    flat,
    grads,
    random,
    same,
    snapshot,
    unfused,
)

Case = Callable[[Compile, nn.ModuleList, Tensor], Iterator[Any]]


def shared_by_two_outputs(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: (nets[0](x) * 2, nets[1](x) * 3))
    for _ in range(2):
        a, b = run(x)
        (a + b).square().mean().backward()
        yield from grads(nets)


def shared_with_eager_code(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: nets[0](x) * 2)
    for _ in range(2):
        (nets[1](x) + run(x)).square().mean().backward()
        yield from grads(nets)


def shared_by_two_models(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    runs = [compile_(lambda x: nets[0](x) * 2), compile_(lambda x: nets[1](x) * 3)]
    for _ in range(2):
        (runs[0](x) + runs[1](x)).square().mean().backward()
        yield from grads(nets)


def shared_by_two_calls(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: nets[0](x) * 2)
    for _ in range(2):
        (run(x) + run(x + 1)).square().mean().backward()
        yield from grads(nets)


def parts_of_one_tensor(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: (nets[0](x) * 2, nets[1](x) * 3))
    for _ in range(2):
        torch.stack([*run(x), x]).square().mean().backward()
        yield from grads(nets)


def given_by_the_user(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: nets[0](x) * 2)
    given = random(5, 8)
    for _ in range(2):
        run(x).backward(given)
        yield from [*snapshot(given), *grads(nets)]
        yield from torch.autograd.grad(run(x), [*nets[0].parameters()], given)
        yield from snapshot(given)


def the_output_itself(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: nets[0](x) * 2)
    for _ in range(2):
        y = run(x)
        y.backward(y.detach())
        yield from [*snapshot(y), *grads(nets)]


def kept_by_hooks(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: nets[0](x) * 2)
    ways = (
        lambda g: g,
        lambda g: g.detach(),
        lambda g: g[1:],
        lambda g: g.numpy(),
        lambda g: g.untyped_storage(),
    )
    for keep in ways:
        kept: list[Any] = []
        y = run(x)
        y.register_hook(partial(_keep, kept, keep))
        y.square().mean().backward()
        yield from grads(nets)
        yield bytes(kept[0]) if isinstance(kept[0], torch.UntypedStorage) else kept[0].tolist()


def _keep(kept: list[Any], how: Callable[[Tensor], Any], gradient: Tensor) -> None:
    kept.append(how(gradient))


def lent_by_numpy(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: nets[0](x) * 2)
    lent = random(5, 8).numpy()
    for _ in range(2):
        y = run(x)
        y.register_hook(lambda g: torch.from_numpy(lent))
        y.square().mean().backward()
        yield from [*snapshot(torch.from_numpy(lent)), *grads(nets)]


def retained_by_the_output(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    run = compile_(lambda x: nets[0](x) * 2)
    for _ in range(2):
        y = run(x)
        y.retain_grad()
        y.square().mean().backward()
        yield from [*snapshot(y.grad), *grads(nets)]


def blocks_compiled_alone(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    """The usual regional compilation: residuals are added outside."""
    runs = [compile_(lambda x, net=net: nn.functional.gelu(net(x)) * 0.5) for net in nets]
    for _ in range(2):
        h = x
        for run in runs:
            h = h + run(h)
        h.square().mean().backward()
        yield from grads(nets)


def returned_twice(compile_: Compile, nets: nn.ModuleList, x: Tensor) -> Iterator[Any]:
    """The tangent is the gradient of both inputs, as it came."""
    run = compile_(lambda a, b: a + b)
    for _ in range(2):
        run(nets[0](x), nets[1](x)).square().mean().backward()
        yield from grads(nets)


CASES: dict[Case, int] = {  # and how many graphs there are
    shared_by_two_outputs: 1,
    shared_with_eager_code: 1,
    shared_by_two_models: 2,
    shared_by_two_calls: 1,
    parts_of_one_tensor: 1,
    given_by_the_user: 1,
    the_output_itself: 1,
    kept_by_hooks: 1,
    lent_by_numpy: 1,
    retained_by_the_output: 1,
    blocks_compiled_alone: 2,
    returned_twice: 1,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_gradient_that_others_hold_stays_as_it_is(case: Case) -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        nets = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        yield from case(compile_, nets, random(5, 8))

    same(scenario, planned=CASES[case])


def step_of(run: Any, loss: Callable[[Tensor], None]) -> tuple[Problem, Plan, int]:
    """The plan that runs from the second step on, and the bytes that a step takes."""
    x = torch.randn(256, 64)

    def step() -> None:
        loss(run(x))

    step()
    measured = roam.measure_peak(step, warm_up=step).peak
    [(problem, plan)] = roam.report().step.planned
    return problem, plan, measured


def sines() -> Any:
    w = nn.Parameter(torch.randn(64, 64))
    return unfused(lambda x: (x @ w).sin() * 2)


def test_a_tangent_of_nobody_else_is_written_over_and_freed() -> None:
    problem, plan, measured = step_of(sines(), lambda y: y.sum().backward())
    [tangents] = [op for op in problem.ops if op.name == "tangents"]
    assert set(tangents.creates) <= set(plan.reuse.values())
    assert abs(plan.peak - measured) <= 0.01 * measured


def test_a_view_of_what_nobody_else_holds_is_written_over() -> None:
    run = sines()
    run(torch.randn(256, 64)).view(-1).square().sum().backward()
    problem, *_ = step_of(run, lambda y: y.view(-1).square().sum().backward())
    assert [b.name for b in problem.buffers if b.kind is Kind.TANGENT] == []


def test_a_tangent_that_is_held_is_planned_to_stay() -> None:
    problem, plan, measured = step_of(sines(), lambda y: y.backward(torch.ones_like(y)))
    [b] = [b for b, buffer in enumerate(problem.buffers) if buffer.kind is Kind.TANGENT]
    assert b not in plan.reuse.values()
    assert abs(plan.peak - measured) <= 0.01 * measured
    freed = Problem(
        problem.name,
        tuple(
            buffer if i != b else type(buffer)(buffer.name, buffer.size, home=buffer.home)
            for i, buffer in enumerate(problem.buffers)
        ),
        problem.ops,
    )
    assert b in find_reuse(freed, range(len(freed.ops))).values()


def test_the_gradient_of_the_loss_stays_and_nothing_else_is_left() -> None:
    """What `backward()` holds is planned to the byte, and compiling leaves no byte behind."""
    w, x = nn.Parameter(torch.randn(64, 256)), torch.randn(4, 64)
    run = unfused(lambda x: (x @ w * 0.5).tanh().sum())

    def step() -> None:
        run(x).backward()
        w.grad = None

    found = roam.measure_peak(step, warm_up=step)
    [(problem, plan)] = roam.report().step.planned
    assert [b.size for b in problem.buffers if b.kind is Kind.TANGENT] == [w.itemsize]
    assert (found.peak, found.held) == (plan.peak, 0)


@pytest.mark.parametrize("arena", [2**60, 0])
def test_saved_tensors_that_a_hook_keeps_stay_as_they_are(
    arena: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tensors, not copies: the backward finds them where the forward left them."""
    monkeypatch.setattr("roam.solvers.layout.placement.arena_limit", lambda *_: arena)
    kept: list[list[Tensor]] = []

    def scenario(compile_: Compile) -> Iterator[Any]:
        run = compile_(lambda x: (x * 2).cumsum(0).exp().cumsum(1).sin() * 3)
        for _ in range(2):
            x = random(5, 8).requires_grad_()
            kept.append([])
            were: list[Tensor] = []

            def pack(t: Tensor, were: list[Tensor] = were) -> Tensor:
                kept[-1].append(t)
                were.append(t.clone())
                return t

            with saved_tensors_hooks(pack, lambda t: t):
                y = run(x)
            y.sum().backward()
            yield x.grad
            assert_equal(kept[-1], were)

    same(scenario, detours=2 if arena else 0, arenas=["step"])


RETURNED: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "a clone": lambda net, x: net(x).clone(),
    "dropout of nothing": lambda net, x: nn.functional.dropout(net(x), 0.0),
    "beside another": lambda net, x: (net(x).clone(), x.exp()),
    "twice as much": lambda net, x: net(x) * 2,
    "of a transpose": lambda net, x: net(x).transpose(0, 1) * 2,
    "a view of it": lambda net, x: (net(x) * 2).view(-1, 4),
}


@pytest.mark.parametrize("function", RETURNED.values(), ids=RETURNED)
@pytest.mark.usefixtures("everything_placed")
def test_what_is_returned_may_be_changed_in_place(function: Any) -> None:
    """Even where it was written over a view: a view autograd would not let anybody change."""

    def scenario(compile_: Compile) -> Iterator[Any]:
        net = nn.Linear(8, 8)
        run = compile_(lambda x: function(net, x))
        for _ in range(2):
            y, *_ = flat(run(random(3, 4, 8)))
            y[torch.tensor([0, 2])] = 1.0
            y.square().sum().backward()
            yield from [*snapshot(y), *grads(net)]

    same(scenario)


@pytest.mark.usefixtures("everything_placed")
def test_a_returned_gradient_is_no_view() -> None:
    """It was written over the tangent, which is one."""
    run = compiler("step")(lambda x: x * 2)
    x = random(6, 8).requires_grad_()
    [g] = torch.autograd.grad(run(x).view(-1).square().sum(), [x])
    assert g._base is None


def test_two_returned_tensors_of_one_value_stay_two() -> None:
    def scenario(compile_: Compile) -> Iterator[Any]:
        net = nn.Linear(8, 8)
        run = compile_(lambda x: (net(x) * 2, net(x) * 2, (net(x) * 2).sin()))
        a, b, c = run(random(5, 8))
        a.detach().zero_()
        yield from snapshot([b, c])
        (b + c).sum().backward()
        yield from grads(net)

    same(scenario)


@pytest.mark.usefixtures("everything_placed")
def test_a_gradient_written_over_a_saved_tensor_goes_to_another_backward() -> None:
    """What told the one backward its plan lay on that tensor, and is not for the other one."""

    def weights(folds: bool) -> list[Any]:
        torch.manual_seed(0)
        net, scale = nn.Linear(8, 8), nn.Parameter(random(8))
        optimizer = AdamA([*net.parameters(), scale], lr=0.01)

        def function(x: Tensor) -> Tensor:
            h = net(x) * 1.5
            torch._dynamo.graph_break()
            return (h * scale).exp().sum()  # saves the exponential alone

        run: Any = unfused(function, optimizer=optimizer) if folds else function
        for _ in range(2):
            run(random(5, 8)).backward()
            optimizer.step()
        return snapshot([*net.parameters(), scale])

    assert_equal(weights(folds=True), weights(folds=False))
