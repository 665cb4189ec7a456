"""Gradient release in training: the same numbers as a stock optimizer, and no gradient left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import roam
from roam.bench.zoo import TINY, loss_of
from roam.core.errors import IncompleteGradientError, OptionError, SecondBackwardError
from roam.core.problem import Kind, Problem
from roam.inspect.gradients import gradient_lives, most_alive
from roam.optim import AdamA
from tests.helpers import assert_equal, bits, mlp, random, unfused

Make = Callable[[], nn.Module]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)


def steps(model: nn.Module, run: Callable[..., Tensor], optimizer: torch.optim.Optimizer) -> None:
    for i in range(3):
        run(random(5 + i, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def trained(make: Make, **how: object) -> tuple[nn.Module, nn.Module]:
    """A model after three steps of AdamW, and after three of AdamA in the graph."""
    torch.manual_seed(0)
    reference = make()
    model = copy.deepcopy(reference)
    steps(reference, torch.compile(reference, backend="aot_eager"), adamw(reference))
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters(), lr=1e-2)
    options = {"optimizer": optimizer, **how}
    steps(model, unfused(model, **options), optimizer)
    return reference, model


def assert_same(reference: nn.Module, model: nn.Module) -> None:
    assert_equal(model.state_dict().values(), reference.state_dict().values())
    assert all(p.grad is None for p in model.parameters())


def folds(problem: Problem) -> list[str]:
    return [op.name for op in problem.ops if op.name.startswith("fold_")]


def problem() -> Problem:
    found = roam.report().graphs[-1].problem
    assert found is not None
    return found


@pytest.mark.parametrize("arena", ["step", "keep"])
@pytest.mark.usefixtures("everything_placed")
def test_release_equals_adamw(arena: str) -> None:
    assert_same(*trained(mlp, arena=arena))
    assert folds(problem()) == ["fold_2.bias", "fold_2.weight", "fold_0.bias", "fold_0.weight"]
    assert roam.report().detours == {}


def test_released_gradients_are_temporaries_and_states_are_persistent() -> None:
    reference, _ = trained(mlp)
    kinds = [b.kind for b in problem().buffers]
    assert Kind.GRADIENT not in kinds
    assert kinds.count(Kind.RELEASED) == 4
    weights = sum(p.nbytes for p in reference.parameters())
    state = sum(b.size for b in problem().buffers if b.kind is Kind.STATE)
    assert state == 2 * weights + 4 * 4  # two moments, and a count of steps each


def test_the_parameter_is_written_after_its_last_reader() -> None:
    trained(mlp)
    p = problem()
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    time = {i: t for t, i in enumerate(plan.order)}
    for b, buffer in enumerate(p.buffers):
        if buffer.kind is Kind.PARAMETER:
            [fold] = [i for i in p.users[b] if b in p.ops[i].mutates]
            assert all(time[i] <= time[fold] for i in p.users[b])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.frozen = nn.Parameter(torch.randn(8, 8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x @ self.weight) @ self.frozen @ self.weight.t()


def test_a_tied_weight_folds_once_after_its_gradients_are_summed() -> None:
    assert_same(*trained(Tied))
    assert folds(problem()) == ["fold_weight"]


class Outside(nn.Module):
    """One layer is compiled, the other is not."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = mlp(), nn.Linear(4, 3)

    @torch.compiler.disable
    def after(self, x: Tensor) -> Tensor:
        return self.outside(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inside(x))


def test_a_parameter_outside_the_graph_trains_by_its_hook() -> None:
    assert_same(*trained(Outside))
    assert folds(problem()) == [
        f"fold_inside.{n}" for n in ("2.bias", "2.weight", "0.bias", "0.weight")
    ]


class Shared(nn.Module):
    """A graph break between two uses of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.own = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ self.weight)
        torch._dynamo.graph_break()
        return torch.tanh(x @ self.own) @ self.weight


def test_a_parameter_of_two_graphs_is_summed_outside_of_them() -> None:
    assert_same(*trained(Shared))
    assert folds(problem()) == ["fold_own"]  # from the second step on
    assert sum(roam.report().detours.values()) == 1  # the second graph's, in the first


class Head(nn.Module):
    """A weight that is tied to one outside of the compiled part."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = mlp()

    @torch.compiler.disable
    def after(self, x: Tensor) -> Tensor:
        return x @ self.inside[2].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inside(x))


def test_a_weight_used_inside_and_outside_is_an_error_once_and_right_from_then_on() -> None:
    torch.manual_seed(0)
    reference = Head()
    model = copy.deepcopy(reference)
    steps(reference, torch.compile(reference, backend="aot_eager"), adamw(reference))
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters(), lr=1e-2)
    compiled = unfused(model, optimizer=optimizer)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(IncompleteGradientError, match="outside"):
        compiled(random(5, 8)).square().mean().backward()
    model.load_state_dict(before[0])
    optimizer.load_state_dict(before[1])
    optimizer.zero_grad()
    steps(model, compiled, optimizer)
    assert_same(reference, model)


class Twice(nn.Module):
    """One compiled part that runs twice before its backward."""

    def __init__(self) -> None:
        super().__init__()
        self.part = mlp()
        self.run: Callable[..., Tensor] = self.part

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x) * self.run(2 * x)


def test_a_siamese_net() -> None:
    torch.manual_seed(0)
    reference = Twice()
    model = copy.deepcopy(reference)
    reference.run = torch.compile(reference.part, backend="aot_eager")
    steps(reference, reference, adamw(reference))
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters(), lr=1e-2)
    model.run = unfused(model.part, optimizer=optimizer)
    steps(model, model, optimizer)
    assert_same(reference, model)


class Layers(nn.Module):
    """One function compiled for three layers, each with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_one_compiled_block_serves_many_layers() -> None:
    torch.manual_seed(0)
    reference = Layers()
    model = copy.deepcopy(reference)
    for layer in reference.layers:
        layer.compile(backend="aot_eager")
    steps(reference, reference, adamw(reference))
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters(), lr=1e-2)
    for layer in model.layers:
        layer.compile(backend="roam", options={"lowering": "aten", "optimizer": optimizer})
    steps(model, model, optimizer)
    assert_same(reference, model)
    assert roam.report().detours == {}


def test_a_forward_that_is_dropped_does_not_matter() -> None:
    torch.manual_seed(0)
    reference = mlp()
    model = copy.deepcopy(reference)
    steps(reference, torch.compile(reference, backend="aot_eager"), adamw(reference))
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters(), lr=1e-2)
    compiled = unfused(model, optimizer=optimizer)

    def run(x: Tensor) -> Tensor:
        compiled(x)  # nobody keeps it
        return compiled(x)

    steps(model, run, optimizer)
    assert_same(reference, model)
    assert roam.report().detours == {}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_accumulate_in_the_graph_equals_accumulate_by_hooks(n: int) -> None:
    def run(compile_: Callable[[nn.Module, AdamA], Callable[..., Tensor]]) -> Iterator[Tensor]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = mlp()
        optimizer = AdamA(model.parameters(), lr=1e-2, micro_batches=n, mode="accumulate")
        compiled = compile_(model, optimizer)
        for i in range(2 * n):
            compiled(random(5 + i, 8)).square().mean().backward()
            if i % n == n - 1:
                optimizer.step()
        yield from model.parameters()

    expected = list(run(lambda model, _: torch.compile(model, backend="aot_eager")))
    found = run(lambda model, opt: unfused(model, optimizer=opt))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(found, expected, strict=True))
    writes = [op for op in problem().ops if op.name == "fold_0.weight"]
    [fold] = writes
    kinds = {problem().buffers[b].kind for b in fold.mutates}
    assert kinds == {Kind.STATE}


def test_a_second_backward_without_a_step_is_refused() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    compiled = unfused(model, optimizer=optimizer)
    compiled(random(5, 8)).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(SecondBackwardError, match="step"):
        compiled(random(5, 8)).sum().backward()
    assert_equal([p.detach() for p in model.parameters()], before)


def test_the_learning_rate_is_not_baked_in() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters(), lr=0.0, weight_decay=0.0)
    compiled = unfused(model, optimizer=optimizer)
    before = [p.detach().clone() for p in model.parameters()]

    def step() -> list[bool]:
        compiled(random(5, 8)).square().sum().backward()
        optimizer.step()
        return [torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]

    assert all(step())
    optimizer.param_groups[0]["lr"] = 0.1
    assert not any(step())
    assert roam.report().planned == 1


def test_a_retained_graph_folds_by_hooks() -> None:
    torch.manual_seed(0)
    reference = mlp()
    model = copy.deepcopy(reference)
    stock = adamw(reference)
    torch.compile(reference, backend="aot_eager")(random(5, 8)).sum().backward(retain_graph=True)
    stock.step()
    stock.zero_grad()
    torch._dynamo.reset()
    optimizer = AdamA(model.parameters(), lr=1e-2)
    compiled = unfused(model, optimizer=optimizer)
    compiled(random(5, 8)).sum().backward(retain_graph=True)
    optimizer.step()
    assert_same(reference, model)


def test_another_optimizer_is_refused() -> None:
    model = mlp()
    options = {"optimizer": torch.optim.SGD(model.parameters())}
    with pytest.raises(OptionError, match="AdamA"):
        unfused(model, **options)(random(5, 8))


@pytest.mark.usefixtures("everything_placed")
def test_planned_is_measured() -> None:
    model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
    optimizer = AdamA(model.parameters())
    compiled = unfused(model, optimizer=optimizer)

    def step() -> None:
        compiled(random(32, 256)).square().mean().backward()
        optimizer.step()

    step()
    plan = roam.report().graphs[0].plan
    assert plan is not None
    outside = 32 * 256 * 4 * 3  # the batch, and the loss with its gradient: not the graph's
    found = roam.measure_peak(step).peak
    assert plan.peak <= found <= plan.peak + outside


@pytest.mark.parametrize("name", ["gpt2", "vit", "resnet"])
def test_fifty_steps_of_a_real_model_equal_adamw(name: str) -> None:
    reference = TINY[name].build()
    model = copy.deepcopy(reference)
    batch = TINY[name].batch()
    stock = torch.optim.AdamW(reference.parameters(), lr=1e-3, fused=True)
    optimizer = AdamA(model.parameters(), lr=1e-3)
    expected = torch.compile(lambda **b: loss_of(reference(**b)), backend="aot_eager")
    options = {"optimizer": optimizer}
    compiled = unfused(lambda **b: loss_of(model(**b)), **options)
    for i in range(50):
        losses = []
        for run, each in ((expected, stock), (compiled, optimizer)):
            torch.manual_seed(i)
            loss = run(**batch)
            loss.backward()
            each.step()
            each.zero_grad()
            losses.append(loss.item())
        assert losses[0] == losses[1]
    assert_equal(model.state_dict().values(), reference.state_dict().values())
    assert not any(b.kind is Kind.GRADIENT for b in problem().buffers)


def test_no_more_than_two_weight_gradients_are_alive_at_once() -> None:
    """Release edges are worth something only if the folds come early."""
    model = TINY["gpt2"].build()
    optimizer = AdamA(model.parameters())
    options = {"optimizer": optimizer}
    compiled = unfused(lambda **b: loss_of(model(**b)), **options)
    compiled(**TINY["gpt2"].batch()).backward()
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    smallest = 1024  # bytes: a weight, not a bias
    lives = [g for g in gradient_lives(problem(), plan) if g.size > smallest]
    assert len(lives) == 10
    assert all(g.folded_by is not None and g.ops <= 2 for g in lives)
    alive = [sum(g.lower <= t < g.upper for g in lives) for t in range(len(plan.order))]
    assert max(alive) <= 2


def test_a_plan_tells_the_life_of_every_gradient() -> None:
    model = mlp()
    options = {"optimizer": AdamA(model.parameters())}
    unfused(model, **options)(random(5, 8)).sum().backward()
    plan = roam.report().graphs[0].plan
    assert plan is not None
    lives = gradient_lives(problem(), plan)
    assert [g.folded_by for g in lives] == [
        "fold_2.bias",
        "fold_2.weight",
        "fold_0.bias",
        "fold_0.weight",
    ]
    for g in lives:
        fold = problem().ops[plan.order[g.upper - 1]]
        assert fold.name == g.folded_by
        assert g.ops >= 1
    assert most_alive(lives) <= 2 * max(g.size for g in lives)
    kept = roam.plan(mlp(), random(5, 8), loss=lambda y: y.sum())
    assert [g.folded_by for g in kept.gradients] == [None] * 4
    assert "gradients are folded" not in str(kept)


def test_the_report_says_whose_gradients_are_not_folded_and_why() -> None:
    torch.manual_seed(0)
    parts = (Outside(), Shared(), mlp())
    parts[2][0].weight.requires_grad_(False)
    model = nn.ModuleList(parts)
    optimizer = AdamA(model.named_parameters(), lr=1e-2)
    options = {"optimizer": optimizer}
    for part in parts:
        compiled = unfused(part, **options)
        for _ in range(2):
            compiled(random(5, 8)).square().mean().backward()
            optimizer.step()
    found = roam.report()
    own = {name for name, _ in optimizer.named()}  # others' optimizers may still be there
    assert {name: why for name, why in found.unfolded.items() if name in own} == {
        "0.outside.weight": "no compiled graph has used it",
        "0.outside.bias": "no compiled graph has used it",
        "1.weight": "several graphs or calls use it, and their gradients are summed first",
        "2.0.weight": "it is frozen",
    }
    lines = str(found).splitlines()
    assert (
        "  0.outside.weight and 1 more: not folded in a graph, no compiled graph has used it"
        in lines
    )
