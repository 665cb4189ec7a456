"""What copying and pickling make of an optimizer, and of what holds one."""

from __future__ import annotations

import copy
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.errors import LostParameterError, OptimizerCopyError
from roam.optim import AdamA, SlimAdamA
from roam.optim.folding import FoldingOptimizer
from roam.optim.handle import OptimizerHandle
from tests.helpers import unfused
from tests.optim.reference import backward, batches, mlp, same_parameters

Make = Callable[[nn.Module], FoldingOptimizer]
MAKES: dict[str, Make] = {
    "AdamA": lambda model: AdamA(model.parameters()),
    "accumulating": lambda model: AdamA(model.parameters(), mode="accumulate", micro_batches=2),
    "SlimAdamA": lambda model: SlimAdamA(model.named_parameters(), {"0.weight": (1,)}),
}


def steps(model: Any, optimizer: FoldingOptimizer, *data: Tensor) -> None:
    for i, x in enumerate(data):
        backward(model, x)
        if i % optimizer.micro_batches == optimizer.micro_batches - 1:
            optimizer.step()


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_copy_with_its_model_goes_its_own_way(make: Make, compiled: bool) -> None:
    model = mlp()
    optimizer = make(model)
    run = unfused(model, optimizer=optimizer) if compiled else model
    data = batches(6)
    steps(run, optimizer, *data[:2])
    twin_run, twin = copy.deepcopy((run, optimizer))
    before = [p.detach().clone() for p in model.parameters()]
    steps(twin_run, twin, *data[2:])
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    steps(run, optimizer, *data[2:])
    same_parameters(model, getattr(twin_run, "_orig_mod", twin_run))
    assert twin.state_dict().keys() == optimizer.state_dict().keys()
    assert type(twin) is type(optimizer)
    assert all(p.grad is None for p in twin_run.parameters())


def test_a_copy_in_the_middle_of_a_mini_batch() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters(), mode="accumulate", micro_batches=2)
    first, second = batches(2)
    backward(model, first)
    twin, copied = copy.deepcopy((model, optimizer))
    for net, each in ((twin, copied), (model, optimizer)):
        backward(net, second)
        each.step()
    same_parameters(model, twin)


def test_a_parameter_that_was_lost_is_lost_to_the_copy() -> None:
    """Whatever the order in which the two optimizers are copied."""
    model = mlp()
    older, newer = AdamA(model.named_parameters()), AdamA(model.parameters())
    twin, new, old = copy.deepcopy((model, newer, older))
    backward(twin, batches(1)[0])
    new.step()
    assert len(new.state) == 4
    with pytest.raises(LostParameterError, match=r"0\.weight"):
        old.step()


def test_a_scheduler_of_the_original_does_not_step_the_copy() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    twin, copied = copy.deepcopy((model, optimizer))
    backward(twin, batches(1)[0])
    copied.step()
    backward(twin, batches(1)[0])  # that was the copy's own step, not the original's
    assert not optimizer.state


@pytest.mark.parametrize(
    "copies",
    [copy.deepcopy, copy.copy, pickle.dumps, lambda o: torch.save(o, io.BytesIO())],
    ids=["deepcopy", "copy", "pickle", "save"],
)
def test_alone_it_is_refused(copies: Callable[[Any], Any]) -> None:
    optimizer = AdamA(mlp().parameters())
    with pytest.raises(OptimizerCopyError, match=r"deepcopy\(\(model, optimizer\)\).*state_dict"):
        copies(optimizer)


def test_copied_options_mean_the_same_optimizer() -> None:
    """Libraries copy what torch.compile is called with, to compile again (Lightning, accelerate).

    Such a copy must hold neither a second optimizer nor the first.
    """
    model = mlp()
    optimizer = AdamA(model.parameters())
    how: dict[str, Any] = copy.deepcopy({"options": {"optimizer": optimizer, "lowering": "aten"}})
    named = how["options"]["optimizer"]
    assert isinstance(named, OptimizerHandle)
    assert named() is optimizer
    run = torch.compile(model, backend="roam", **how)
    backward(run, batches(1)[0])
    optimizer.step()
    assert len(optimizer.state) == 4
    assert not roam.report().unfolded
    gone = weakref.ref(optimizer)
    del optimizer
    assert gone() is None
    assert "gone" in repr(named)


def test_a_handle_says_what_it_is_when_it_is_taken_for_the_optimizer() -> None:
    optimizer = AdamA(mlp().parameters())
    copied = copy.deepcopy({"optimizer": optimizer})["optimizer"]
    with pytest.raises(OptimizerCopyError, match=r"no 'step' here.*copied.*without its model"):
        copied.step()
    assert not hasattr(copied, "__len__")


@pytest.mark.parametrize("copies", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copied_compiled_model_belongs_to_no_optimizer(copies: Callable[[Any], Any]) -> None:
    """An average of the weights, say: its gradients are its own, until it gets an optimizer."""
    model = mlp()
    optimizer = AdamA(model.parameters())
    run = unfused(model, optimizer=optimizer)
    steps(run, optimizer, *batches(1))
    before = [p.detach().clone() for p in model.parameters()]
    other = copies(run)
    backward(other, batches(1)[0])
    assert all(p.grad is not None for p in other.parameters())
    assert all(torch.equal(p, b) for p, b in zip(other.parameters(), before, strict=True))
    other.zero_grad()
    its_own = AdamA(other.parameters())
    steps(other, its_own, *batches(1))
    assert len(its_own.state) == 4
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
