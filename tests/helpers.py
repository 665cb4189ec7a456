"""Runs the same scenario with several backends and compares every bit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.errors import UnplannedWarning
from roam.core.plan import Plan
from roam.optim import AdamA

ARENAS = ("step", "keep")
Compile = Callable[[Any], Any]
CpuWith = Callable[..., None]  # the fixture `cpu_with`
Scenario = Callable[[Compile], Iterable[Any]]
both_arenas = pytest.mark.parametrize("arena", ARENAS)
# a decoder, a conv net and an encoder; the whole zoo is tests/models/test_zoo_architectures.py's
real_models = pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "vit"))]
)


def some_slow(cases: Mapping[str, Any], quick: Collection[str]) -> list[Any]:
    """Cases for parametrize, with their keys as ids; all but the quick ones run with -m slow.

    A tuple has the arguments of its case.
    """
    assert set(quick) <= cases.keys()
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            id=name,
            marks=() if name in quick else pytest.mark.slow,
        )
        for name, case in cases.items()
    ]


def compiler(backend: str, **how: Any) -> Compile:
    """Shorthands: `compiler("keep")` compiles with roam's aten lowering and that arena, and
    `compiler("eager")` not at all."""
    if backend == "eager":
        return lambda model: model
    if backend in ARENAS:
        how = {"options": {"arena": backend, "lowering": "aten"}, **how}
        backend = "roam"
    return lambda model: torch.compile(model, backend=backend, **how)


def same(
    scenario: Scenario,
    *,
    planned: int = 1,
    unplanned: int = 0,
    detours: int = 0,
    eager: bool = True,
    reference: str = "aot_eager",
    arenas: Iterable[str] = ARENAS,
    **how: Any,
) -> None:
    """Runs the scenario with roam, in both modes, and without it: all must yield the same bits.

    The counts are what roam.report() must say, for each mode. `how` goes to torch.compile.
    """
    expected = results(scenario, compiler(reference, **how))
    if eager:
        assert_equal(expected, results(scenario, lambda model: model))
    for arena in arenas:
        roam.reset_report()
        with warned(unplanned):
            found = results(scenario, compiler(arena, **how))
        assert_equal(found, expected)
        assert_counts(planned, unplanned, detours)


def same_as_inductor(scenario: Scenario, *, planned: int = 1, detours: int = 0, **how: Any) -> None:
    """Runs the scenario with Inductor and with roam's order of its kernels: the same bits.

    `how` goes to torch.compile. The counts are what roam.report() must say.
    """
    expected = results(scenario, compiler("inductor", **how))
    roam.reset_report()
    with warned(0):
        found = results(scenario, lambda model: fused(model, **how))
    assert_equal(found, expected)
    assert_counts(planned, detours=detours)


def fused(model: Any, dynamic: bool | None = None, **options: Any) -> Any:
    options = {"lowering": "inductor", **options}
    return torch.compile(model, backend="roam", dynamic=dynamic, options=options)


def unfused(model: Any, **options: Any) -> Any:
    """Compiled with ATen's own kernels, whose bits are eager's."""
    return torch.compile(model, backend="roam", options={"lowering": "aten", **options})


def folding_step(loss: Callable[..., Tensor], model: nn.Module, *given: Any) -> Callable[[], None]:
    """A step of training with Inductor's kernels, the gradients folded. loss: of what is given."""
    optimizer = AdamA(model.parameters(), lr=1e-4)
    run = fused(loss, optimizer=optimizer)

    def step() -> None:
        run(*given).backward()
        optimizer.step()

    return step


def averaging(
    model: nn.Sequential, optimizer: AdamA, average: Tensor, share: float
) -> Callable[[Tensor], Tensor]:
    """A step of training that then moves a running average to the first layer's weight."""

    def train_step(x: Tensor) -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        average.lerp_(model[0].weight.detach(), share)
        return loss.detach()

    return train_step


def measured_as_planned(step: Callable[[], None]) -> Plan:
    """The plan of the only graph, which a step takes as much as, within 1 %."""
    measured = roam.measure_peak(step, warm_up=step).peak
    [(_, plan)] = roam.report().step.planned
    assert abs(plan.peak - measured) <= 0.01 * measured
    return plan


def results(scenario: Scenario, compile_: Compile) -> list[Any]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return list(scenario(compile_))


def check(make: Callable[[], nn.Module], *inputs: Any, **counts: Any) -> None:
    """`same`, where the scenario is two steps of SGD on a model."""
    same(lambda compile_: train(make, inputs, compile_), **counts)


def train(
    make: Callable[[], nn.Module], inputs: tuple[Any, ...], compile_: Compile, steps: int = 2
) -> Iterator[Any]:
    """Yields every output, loss, gradient, changed input and buffer of some steps."""
    model = make()
    run = compile_(model)
    optimizer = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=1e-3)
    for _ in range(steps):
        given = copy.deepcopy(inputs)
        result = run(*given)
        loss = total(result)
        yield from snapshot([result, loss])
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        leaves = [x for x in (*model.parameters(), *flat(given)) if isinstance(x, Tensor)]
        yield from snapshot([x.grad for x in leaves if x.is_leaf])
        yield from snapshot(given)
        optimizer.step()
        optimizer.zero_grad()
        yield from snapshot(list(model.buffers()))


def total(result: Any) -> Tensor:
    """A loss in which every element of every differentiable output has a weight of its own."""
    loss = torch.zeros(())
    for t in flat(result):
        if isinstance(t, Tensor) and t.requires_grad:
            real = torch.view_as_real(t) if t.is_complex() else t
            weight = torch.linspace(0.5, 1.5, max(real.numel(), 1), dtype=real.dtype)
            loss = loss + (real.reshape(-1) * weight[: real.numel()]).sum().float()
    return loss


def flat(result: Any) -> list[Any]:
    """The tensors and numbers in nested tuples, lists and dicts, in order."""
    if isinstance(result, dict):
        return [x for part in result.values() for x in flat(part)]
    if isinstance(result, (tuple, list)):
        return [x for part in result for x in flat(part)]
    return [result]


def snapshot(result: Any) -> list[Any]:
    """What is there now, copied: later steps cannot change it."""
    return [x.detach().clone() if isinstance(x, Tensor) else x for x in flat(result)]


def grads(model: nn.Module) -> list[Any]:
    return snapshot([p.grad for p in model.parameters()])


def assert_equal(found: Iterable[Any], expected: Iterable[Any]) -> None:
    """Equal type, shape, strides and bits."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            assert a == b, f"number {i}"
            continue
        assert (a.dtype, a.shape, a.layout) == (b.dtype, b.shape, b.layout), f"tensor {i}"
        if a.layout is not torch.strided:
            a, b = a.to_dense(), b.to_dense()
        assert a.stride() == b.stride(), f"tensor {i}"
        assert torch.equal(bits(a), bits(b)), f"tensor {i}: {a} is not {b}"


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's elements: NaN equals itself here, and 0.0 is not -0.0."""
    plain = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    return plain.clone(memory_format=torch.contiguous_format).view(torch.uint8)


@contextmanager
def warned(times: int) -> Iterator[list[str]]:
    """Expects so many warnings about graphs without a plan, and none from out= overloads."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield messages
    messages += [str(w.message) for w in seen if issubclass(w.category, UnplannedWarning)]
    assert len(messages) == times, messages
    assert [str(w.message) for w in seen if "resized" in str(w.message)] == []


def assert_counts(planned: int, unplanned: int = 0, detours: int = 0) -> None:
    report = roam.report()
    counts = (report.planned, report.unplanned, sum(report.detours.values()))
    assert counts == (planned, unplanned, detours), str(report)


def mlp(width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))


def random(*shape: int) -> Tensor:
    """The same numbers every time, whatever was drawn before."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Calls(nn.Module):
    """A function of some parameters and the inputs, as a module."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(0.3 * torch.randn(shape) for shape in shapes)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*self.weights, *inputs)


def calls(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Callable[[], nn.Module]:
    return lambda: Calls(function, *shapes)
