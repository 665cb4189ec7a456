"""Optimizers that come and go while the graphs stay: a graph finds its optimizers when it runs."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.core.errors import LostParameterError
from roam.optim import AdamA, SlimAdamA
from roam.step.foldable_gradients import GONE
from tests.helpers import assert_equal, mlp, random, snapshot, unfused

X = random(5, 8)
NO_GRAPH = "no compiled graph has a gradient of it"
both_lowerings = pytest.mark.parametrize("lowering", ["aten", "inductor"])


class Net(nn.Module):
    """A class of the user's: all of its models share their code, and so their compiled graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).square().mean()


def train(run: Callable[..., Tensor], *optimizers: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        run(X).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def by_adamw(net: Net, steps: int = 2) -> list[Tensor]:
    """The weights of a copy of the model after as many steps of AdamW."""
    reference = copy.deepcopy(net)
    stock = torch.optim.AdamW(reference.parameters(), fused=True)
    train(reference, stock, steps=steps)
    return snapshot(list(reference.parameters()))


def live_bytes() -> int:
    """The bytes of all storages that Python can reach. Fake and opaque tensors have none."""
    gc.collect()
    found = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)]
    storages = [t.untyped_storage() for t in found if torch._C._has_storage(t)]
    return sum({s.data_ptr(): s.nbytes() for s in storages if s.nbytes()}.values())


def assert_compiled_once() -> None:
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert roam.report().planned == 1
    assert roam.report().detours == {}


@pytest.mark.parametrize(
    ("lowering", "same_model"),
    [
        ("aten", False),
        ("inductor", True),
        pytest.param("aten", True, marks=pytest.mark.slow),
        pytest.param("inductor", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("shared_kernels")
def test_fifty_optimizers_made_used_and_dropped(lowering: str, same_model: bool) -> None:
    """Memory is flat and all share one compilation. Each had its own once, and the ninth none."""
    torch._dynamo.utils.counters.clear()
    kept = Net()
    alive, peaks = [], []

    def one() -> None:
        net = kept if same_model else Net()
        expected = by_adamw(net)
        optimizer = AdamA(net.parameters())
        options = {"optimizer": optimizer, "lowering": lowering}
        compiled = torch.compile(net, backend="roam", options=options)
        train(compiled, optimizer)
        if lowering == "aten":
            assert_equal(snapshot(list(net.parameters())), expected)
        assert all(p.grad is None for p in net.parameters())

    for i in range(50):
        if i in (1, 49):
            peaks.append(roam.measure_peak(one).peak)
        else:
            one()
        if i in (0, 49):
            alive.append(live_bytes())
    assert alive[1] <= alive[0]  # what other tests left may go meanwhile
    assert peaks[0] == peaks[1]
    assert_compiled_once()


@both_lowerings
@pytest.mark.usefixtures("shared_kernels")
def test_an_optimizer_that_was_deleted_trains_nothing(lowering: str) -> None:
    """It lived on in dynamo's cache, and went on updating the weights in every backward."""
    net = Net()
    optimizer = AdamA(net.parameters())
    options = {"optimizer": optimizer, "lowering": lowering}
    compiled = torch.compile(net, backend="roam", options=options)
    train(compiled, optimizer)
    gone = weakref.ref(optimizer)
    moment = weakref.ref(optimizer.state_of(net.first.weight)["exp_avg"])
    del optimizer, options
    assert gone() is None
    assert moment() is None
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
    before = snapshot(list(net.parameters()))
    for run in (compiled, net):
        stock = torch.optim.AdamW(net.parameters(), lr=0.0)
        for _ in range(2):
            run(X).backward()
            assert all(p.grad is not None for p in net.parameters())
            stock.step()
            stock.zero_grad()
    assert_equal(snapshot(list(net.parameters())), before)


@both_lowerings
@pytest.mark.usefixtures("shared_kernels")
def test_a_deleted_optimizer_lets_go_of_its_model(lowering: str) -> None:
    """What is left is the graph: neither it nor anything beside it keeps a parameter."""
    net = Net()
    optimizer = AdamA(net.parameters())
    compiled = unfused(net, optimizer=optimizer, lowering=lowering)
    train(compiled, optimizer)
    weights = [weakref.ref(p) for p in net.parameters()]
    del optimizer, compiled, net
    gc.collect()  # a compiled module is part of a cycle
    assert [w() for w in weights] == [None] * 4


def test_compiling_alone_keeps_no_optimizer() -> None:
    """Dynamo has the options from the start, and the backend is called when a graph is there."""
    net = Net()
    optimizer = AdamA(net.parameters())
    options = {"optimizer": optimizer, "lowering": "aten"}
    compiled = torch.compile(net, backend="roam", options=options)
    assert options["optimizer"] is optimizer  # the user's own are left alone
    assert set(roam.report().unfolded.values()) == {NO_GRAPH}
    gone = weakref.ref(optimizer)
    del optimizer, options
    assert gone() is None
    compiled(X).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_an_optimizer_dropped_between_forward_and_backward() -> None:
    net = Net()
    optimizer = AdamA(net.parameters())
    loss = unfused(net, optimizer=optimizer)(X)
    before = snapshot(list(net.parameters()))
    gone = weakref.ref(optimizer)
    del optimizer
    assert gone() is None
    loss.backward()
    assert_equal(snapshot(list(net.parameters())), before)
    assert all(p.grad is not None for p in net.parameters())
    assert roam.report().detours == {GONE: 1}


def test_an_optimizer_replaced_between_forward_and_backward() -> None:
    net = Net()
    expected = by_adamw(net)
    older = AdamA(net.parameters())
    compiled = unfused(net, optimizer=older)
    loss = compiled(X)
    newer = AdamA(net.parameters())
    loss.backward()
    newer.step()
    train(compiled, newer, steps=1)
    assert_equal(snapshot(list(net.parameters())), expected)
    assert roam.report().detours == {GONE: 1}
    with pytest.raises(LostParameterError):
        older.step()


@both_lowerings
@pytest.mark.usefixtures("shared_kernels")
def test_one_graph_folds_for_two_optimizers(lowering: str) -> None:
    """Of different rules and modes; hooks do the same where nothing is folded in the graph."""

    def by(net: Net, options: dict[str, object]) -> list[Tensor]:
        mine = AdamA(net.first.parameters())
        other = SlimAdamA(net.second.named_parameters(), {"weight": (0,)}, mode="accumulate")
        how = options | {"optimizer": mine} if options else {"lowering": lowering}
        train(torch.compile(net, backend="roam", options=how), mine, other)
        return snapshot(list(net.parameters()))

    net = Net()
    expected = by(copy.deepcopy(net), {})
    torch._dynamo.reset()
    roam.reset_report()
    assert_equal(by(net, {"lowering": lowering}), expected)
    [graph] = roam.report().graphs
    assert graph.problem is not None
    assert sum(op.name.startswith("fold_") for op in graph.problem.ops) == 4


def test_the_options_name_the_optimizer_of_another_model() -> None:
    """What counts is whose the parameters are. One that nothing is folded for is reported."""
    net, nobodys = Net(), Net()
    expected = by_adamw(net)
    optimizer, other = AdamA(net.parameters()), AdamA(Net().named_parameters())
    train(unfused(net, optimizer=other), optimizer)
    assert_equal(snapshot(list(net.parameters())), expected)
    unfused(nobodys, optimizer=other)(X).backward()
    assert all(p.grad is not None for p in nobodys.parameters())
    names = {name for name, _ in other.named()}
    assert roam.report().unfolded == dict.fromkeys(names, NO_GRAPH)


def test_one_dict_of_options_for_two_models() -> None:
    nets = Net(), Net()
    expected = [by_adamw(net) for net in nets]
    optimizer = AdamA([p for net in nets for p in net.parameters()])
    options = {"optimizer": optimizer, "lowering": "aten"}
    runs = [torch.compile(net, backend="roam", options=options) for net in nets]
    train(lambda x: runs[0](x) + runs[1](x), optimizer)
    for net, weights in zip(nets, expected, strict=True):
        assert_equal(snapshot(list(net.parameters())), weights)


def test_hyperparameters_that_need_another_plan() -> None:
    """Plans are told apart by what the folds take: state, scratch, whether weights are written."""
    net = Net()
    for how in ({}, {"lr": 1e-2}, {"update_clip": 1.0}, {"mode": "accumulate"}, {"eps": 1e-6}):
        optimizer = AdamA(net.parameters(), **how)
        train(unfused(net, optimizer=optimizer), optimizer)
    assert roam.report().planned == 3


def test_steps_of_a_sweep_are_compiled_apart() -> None:
    """Dynamo compiles a captured step for its optimizer alone, and eight of one function."""
    gone = []

    def one() -> None:
        net = mlp()
        optimizer = AdamA(net.parameters())

        def train_step(x: Tensor) -> Tensor:
            loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        step = roam.compile_step(train_step, optimizer)
        step(X)
        gone.append(weakref.ref(optimizer))

    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(3):
            one()
    gc.collect()
    assert [g() for g in gone] == [None] * 3
    assert roam.report().planned == 3
