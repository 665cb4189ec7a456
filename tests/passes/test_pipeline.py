from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, fx

from roam.passes.geometry import storage_key, value
from roam.passes.pipeline import run
from roam.passes.rewrites.drop_clones import DropClones
from tests.passes.graphs import printed, trace


@dataclass(frozen=True)
class Noted:
    """A pass that writes down that it ran."""

    name: str
    changed: int
    seen: list[str] = field(default_factory=list)

    def __call__(self, module: fx.GraphModule) -> int:
        self.seen.append(self.name)
        return self.changed


@dataclass(frozen=True)
class Breaks:
    """A pass that leaves a node before what it reads."""

    name: str = "breaks"

    def __call__(self, module: fx.GraphModule) -> int:
        _, first, second, _ = module.graph.nodes
        second.append(first)
        return 1


def fn(x: Tensor) -> Tensor:
    return x.exp().clone().sin()


def test_passes_run_in_order_and_between_them_a_callback_looks() -> None:
    seen: list[str] = []
    passes = (Noted("a", 2, seen), Noted("b", 0, seen))
    run(passes, trace(fn, torch.ones(3)), lambda name, n, _: seen.append(f"{name} changed {n}"))
    assert seen == ["a", "a changed 2", "b", "b changed 0"]


def test_the_callback_sees_the_graph_after_each_pass() -> None:
    seen: list[str] = []
    passes = (Noted("looks", 0), DropClones())
    run(passes, trace(fn, torch.ones(3)), lambda *given: seen.append(printed(given[2])))
    assert seen == [
        "exp = exp(x_1)\nclone = clone(exp)\nsin = sin(clone)\nreturn sin",
        "exp = exp(x_1)\nsin = sin(exp)\nreturn sin",
    ]


def test_a_graph_that_a_pass_broke_goes_no_further() -> None:
    seen: list[str] = []
    module = trace(lambda x: x.exp().sin(), torch.ones(3))
    with pytest.raises(RuntimeError, match="before"):
        run((Breaks(), Noted("after", 0, seen)), module)
    assert seen == []


def test_values_are_right_again_after_each_pass() -> None:
    module = trace(lambda x: x.exp().clone().view(-1) + 1, torch.ones(3, 4))
    run((DropClones(),), module)
    nodes = {n.name: n for n in module.graph.nodes}
    assert storage_key(value(nodes["view"])) == storage_key(value(nodes["exp"]))
