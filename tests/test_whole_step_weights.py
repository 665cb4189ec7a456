"""What else a captured step does with its weights: the values of eager, or the model alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.errors import UnplannedWarning
from roam.optim import AdamA
from roam.optim.ruled import Mode
from tests.helpers import assert_equal

STEPS = 3
Step = Callable[[Tensor], Any]
Make = Callable[[Any, nn.Module, AdamA], Step]


def tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found.detach().clone()
    elif isinstance(found, (list, tuple)):
        for part in found:
            yield from tensors(part)


def trained(make: Make, whole: bool, mode: Mode) -> list[Tensor]:
    """What each step returned, and everything that the steps may have changed."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 4))
    other = copy.deepcopy(model).requires_grad_(False)
    optimizer = AdamA(model.parameters(), lr=0.05, mode=mode)
    step = make(model, other, optimizer)
    if whole:
        step = roam.compile_step(step, optimizer)
    found: list[Tensor] = []
    for i in range(STEPS):
        torch.manual_seed(i)
        found += tensors(step(torch.randn(5, 8)))
    states = [optimizer.state[p] for p in model.parameters()]
    found += [t.clone() for m in (model, other) for t in m.state_dict().values()]
    return found + [state[name].clone() for state in states for name in sorted(state)]


def check(make: Make, mode: Mode = "release", reason: str | None = None) -> None:
    """reason: why the model is compiled alone; None where the step is one graph."""
    expected = trained(make, whole=False, mode=mode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = trained(make, whole=True, mode=mode)
    said = [str(w.message) for w in caught if issubclass(w.category, UnplannedWarning)]
    assert_equal(found, expected)
    if reason is None:
        assert said == []
        assert all(g.planned for g in roam.report().graphs)
    else:
        assert len(said) == 1
        assert reason in said[0]


def train(model: nn.Module, optimizer: AdamA, x: Tensor) -> Tensor:
    loss: Tensor = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def average(other: nn.Module, model: nn.Module) -> None:
    with torch.no_grad():
        for a, p in zip(other.parameters(), model.parameters(), strict=True):
            a.lerp_(p, 0.3)


def test_an_average_is_of_the_updated_weights() -> None:
    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = train(model, optimizer, x)
            average(other, model)
            return loss

        return step

    check(make)


def test_foreach_and_data_see_the_updated_weights() -> None:
    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = train(model, optimizer, x)
            averages = list(other.parameters())
            torch._foreach_lerp_(averages[:2], [p.detach() for p in model.parameters()][:2], 0.3)
            averages[2].data.mul_(0.7).add_(model[2].weight.data, alpha=0.3)
            return loss

        return step

    check(make)


def test_weights_clamped_before_the_forward_and_after_the_update() -> None:
    """What is written before the forward reaches the fold; what is written below, the parameter."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def clamp(bound: float) -> None:
            with torch.no_grad():
                for p in model.parameters():
                    p.clamp_(-bound, bound)

        def step(x: Tensor) -> Tensor:
            clamp(0.2)
            loss = train(model, optimizer, x)
            average(other, model)
            clamp(0.1)
            return loss

        return step

    check(make)


def test_what_is_read_on_both_sides_of_the_update() -> None:
    """The same op reads the weights before and after; views follow; copies stay as they were."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Any:
            view = model[0].weight.detach()[1]
            before = model[0].weight.detach().clone()
            norms = [p.detach().norm() for p in model.parameters()]
            loss = train(model, optimizer, x)
            with torch.no_grad():
                after = model(x).square().mean()
            norms += [p.detach().norm() for p in model.parameters()]
            moved = (model[0].weight.detach() - before).norm()
            returned = model[0].weight, model[2].bias.data[1:], model[2].weight.detach().clone()
            return loss, after, norms, moved, view.sum(), before, returned

        return step

    check(make)


def test_lookahead_between_backward_and_step() -> None:
    """Mode "release" has updated the weights at the end of `backward()`, in eager too."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = model(x).square().mean()
            loss.backward()
            average(other, model)
            with torch.no_grad():
                for a, p in zip(other.parameters(), model.parameters(), strict=True):
                    p.copy_(a)
            optimizer.step()
            return loss.detach()

        return step

    check(make)


def test_a_critic_and_its_generator() -> None:
    """A second backward goes through the weights that the first one updated."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        generator = nn.Linear(8, 8)
        other.add_module("generator", generator)

        def step(x: Tensor) -> Any:
            loss = (model(generator(x).detach()) - model(x)).square().mean()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for p in model.parameters():
                    p.clamp_(-0.1, 0.1)
            second = -model(generator(x)).mean()
            second.backward(inputs=list(generator.parameters()))
            with torch.no_grad():
                for p in generator.parameters():
                    p.sub_(0.1 * p.grad)
                    p.grad = None
            return loss.detach(), second.detach()

        return step

    check(make)


def test_gradients_that_the_model_drops_are_folded_all_the_same() -> None:
    """`model.zero_grad()` made the captured step train nothing: no gradient left its graph."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = train(model, optimizer, x)
            model.zero_grad()
            return loss

        return step

    check(make)
    check(make, "accumulate")


def test_accumulate_updates_after_the_graph() -> None:
    def before(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = model(x).square().mean()
            loss.backward()
            average(other, model)
            optimizer.step()
            return loss.detach()

        return step

    def after(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = train(model, optimizer, x)
            average(other, model)
            return loss

        return step

    check(before, "accumulate")
    check(after, "accumulate", "is used after optimizer.step()")


def test_gradients_that_the_step_looks_at_update_after_the_graph() -> None:
    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = model(x).square().mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient
            optimizer.step()
            average(other, model)
            return loss.detach()

        return step

    check(make, reason="is used after optimizer.step()")


def test_two_updates_in_a_step() -> None:
    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Any:
            return train(model, optimizer, x), train(model, optimizer, x + 1)

        return step

    check(make, reason="several gradients")


def test_a_step_that_comes_first() -> None:
    """In mode "accumulate" it ends the mini-batch of the last call, not this one's."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            optimizer.step()
            loss = model(x).square().mean()
            loss.backward()
            return loss.detach()

        return step

    check(make, "accumulate", "follows optimizer.step()")


@pytest.mark.parametrize("first", [True, False])
def test_a_learning_rate_that_the_step_changes(first: bool) -> None:
    """Python's changes come after the graph. A group looked at hid its parameters from dynamo's
    `backward()`, which then did nothing."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            if first:
                optimizer.param_groups[0]["lr"] *= 0.5
            loss = train(model, optimizer, x)
            if not first:
                optimizer.param_groups[0]["lr"] *= 0.5
            return loss

        return step

    check(make, reason="optimizer's groups")


def test_a_learning_rate_that_the_step_reads_first() -> None:
    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Any:
            rate = torch.tensor(optimizer.param_groups[0]["lr"])
            return train(model, optimizer, x), rate

        return step

    check(make, reason="optimizer's groups")


def test_state_that_the_step_reads() -> None:
    """There is none yet when the first step is captured, and eager finds it after the backward."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Any:
            loss = train(model, optimizer, x)
            states = [optimizer.state[p] for p in model.parameters()]
            return loss, [state["exp_avg"].norm() for state in states if "exp_avg" in state]

        return step

    check(make, reason="folds change")


def test_memory_that_the_step_exchanges() -> None:
    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = train(model, optimizer, x)
            model[0].weight.data = model[0].weight.data * 0.5
            return loss

        return step

    check(make, reason="other memory")


def test_weights_clamped_through_data() -> None:
    """Autograd has to be told of it after the graph."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Tensor:
            loss = train(model, optimizer, x)
            for p in model.parameters():
                p.data.clamp_(-0.1, 0.1)
            return loss

        return step

    check(make, reason="needs a gradient")


def test_a_gradient_from_before_the_step() -> None:
    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        model[0].weight.grad = torch.ones_like(model[0].weight)

        def step(x: Tensor) -> Tensor:
            optimizer.zero_grad()
            return train(model, optimizer, x)

        return step

    check(make, reason="gradient from before")


def test_a_view_of_a_weight_that_the_step_is_given() -> None:
    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        view = model[0].weight.detach()[2:4]

        def step(x: Tensor) -> Any:
            return train(model, optimizer, x), view.sum()

        return step

    check(make, reason="Aliased inputs")


def test_what_is_compiled_after_a_captured_step_finds_dynamo_as_it_was() -> None:
    """A `.grad` set to None and read again left its place on the None that dynamo uses for all."""

    def make(model: Any, other: nn.Module, optimizer: AdamA) -> Step:
        def step(x: Tensor) -> Any:
            first = train(model, optimizer, x)
            model.zero_grad()
            return first, train(model, optimizer, x)

        return step

    def nothing() -> object:
        result = None
        torch._dynamo.graph_break()
        return result

    check(make, reason="several gradients")
    x = torch.ones(2)
    doubled, none = torch.compile(lambda: (2 * x, nothing()), backend="eager")()
    assert_equal([doubled], [2 * x])
    assert none is None
