"""A user's rewrites of the joint graph: the same on every lowering, and in every kind of plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import roam
from roam.core.errors import OptionError
from roam.lowering.inductor.rewriting import JointRewrites
from roam.optim import AdamA
from roam.passes import WTACRS
from roam.passes.rewrites.saved import ShrinkSaved
from tests.helpers import random

aten = torch.ops.aten
both_lowerings = pytest.mark.parametrize("lowering", ["aten", "inductor"])
pytestmark = pytest.mark.usefixtures("shared_kernels")


@dataclass(frozen=True)
class AbsForRelu:
    """Forward |x|; the backward, which looks where the result is positive, lets all through."""

    name: str = "abs_for_relu"

    def __call__(self, module: fx.GraphModule) -> int:
        found = module.graph.find_nodes(op="call_function", target=aten.relu.default)
        for node in found:
            with module.graph.inserting_before(node):
                new = module.graph.call_function(aten.abs.default, node.args)
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)
        module.recompile()
        return len(found)


@dataclass(frozen=True)
class Broken:
    name: str = "broken"

    def __call__(self, module: fx.GraphModule) -> int:
        node = module.graph.find_nodes(op="call_function", target=aten.relu.default)[0]
        node.replace_all_uses_with(node.args[0])
        raise RuntimeError("a bug")


class ByHand(torch.autograd.Function):
    """What AbsForRelu makes of a relu."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.abs()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Net(nn.Module):
    def __init__(self, by_hand: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.between: Any = ByHand.apply if by_hand else torch.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x))).square().mean()


def trained(model: Net, run: Any, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    for _ in range(2):
        run(random(5, 8)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def expected(by_hand: bool = True) -> list[Tensor]:
    model = Net(by_hand)
    return trained(model, model, torch.optim.AdamW(model.parameters()))


@both_lowerings
@pytest.mark.parametrize("folds", [False, True])
def test_a_rewrite_changes_forward_and_backward(lowering: str, folds: bool) -> None:
    model = Net()
    options: dict[str, Any] = {"lowering": lowering, "rewrites": [AbsForRelu()]}
    optimizer: torch.optim.Optimizer
    if folds:
        optimizer = options["optimizer"] = AdamA(model.parameters(), lr=1e-3)
    else:
        optimizer = torch.optim.AdamW(model.parameters())
    run = torch.compile(model, backend="roam", options=options)
    torch.testing.assert_close(trained(model, run, optimizer), expected())
    assert roam.report().planned == 1


@both_lowerings
def test_another_rewrite_is_another_graph_to_the_caches(lowering: str) -> None:
    """Without the rewrites in their keys the second model would get the code of the first."""
    for rewrites, by_hand in (([AbsForRelu()], True), ([], False)):
        torch._dynamo.reset()
        model = Net()
        options = {"lowering": lowering, "rewrites": rewrites}
        run = torch.compile(model, backend="roam", options=options)
        found = trained(model, run, torch.optim.AdamW(model.parameters()))
        torch.testing.assert_close(found, expected(by_hand))


def test_the_users_own_passes_run_first_be_they_functions_or_a_list() -> None:
    """torch takes both, and caches nothing then. roam called the list, and asked for a key."""
    seen: list[str] = []
    first = [lambda graph: seen.append("a"), lambda graph: seen.append("b")]
    net = fx.symbolic_trace(nn.ReLU())
    for given in (first, first[0]):
        ours = JointRewrites((), given, print)
        ours(net.graph)
        assert ours.uuid() is None
    assert seen == ["a", "b", "a"]


def test_a_rewrite_of_a_notebook_is_not_cached() -> None:
    """Its code is in no file, so that a change of it would find the old kernels."""
    made = type("Made", (AbsForRelu,), {"__module__": "a notebook"})()
    assert JointRewrites((AbsForRelu(),), None, print).uuid() is not None
    assert JointRewrites((AbsForRelu(), made), None, print).uuid() is None
    saved = type("Saved", (WTACRS,), {"__module__": "a notebook"})()
    assert JointRewrites((ShrinkSaved((WTACRS(),)),), None, print).uuid() is not None
    assert JointRewrites((ShrinkSaved((saved,)),), None, print).uuid() is None


@both_lowerings
def test_a_rewrite_that_fails_leaves_the_graph_as_it_came(lowering: str) -> None:
    model = Net()
    options = {"lowering": lowering, "rewrites": [Broken()]}
    run = torch.compile(model, backend="roam", options=options)
    found = trained(model, run, torch.optim.AdamW(model.parameters()))
    torch.testing.assert_close(found, expected(by_hand=False))
    assert roam.report().planned == 1


@both_lowerings
def test_offline_plans_are_of_the_rewritten_graph(lowering: str) -> None:
    plans = [
        roam.plan(Net(), random(5, 8), lowering=lowering, options={"rewrites": rewrites})
        for rewrites in ([], [AbsForRelu()])
    ]
    names = [{op.name for op in plan.planned[0][0].ops} for plan in plans]
    if lowering == "aten":
        assert [any("relu" in name for name in found) for found in names] == [True, False]
    assert plans[0].planned[0][0].fingerprint != plans[1].planned[0][0].fingerprint


def test_a_step_that_is_one_graph_is_rewritten() -> None:
    model = Net()
    optimizer = AdamA(model.parameters(), lr=1e-3)

    def step(x: Tensor) -> Tensor:
        loss = model(x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    compiled = roam.compile_step(step, optimizer, rewrites=[AbsForRelu()])
    for _ in range(2):
        compiled(random(5, 8))
    found = [p.detach() for p in model.parameters()]
    torch.testing.assert_close(found, expected())
    assert [g.name.partition(" ")[0] for g in roam.report().graphs] == ["Net"]


@pytest.mark.parametrize("given", ["abs", [AbsForRelu], [lambda module: 0]])
def test_what_is_no_pass_is_refused(given: Any) -> None:
    with pytest.raises(OptionError, match="list of passes"):
        torch.compile(Net(), backend="roam", options={"rewrites": given})(random(5, 8))
