"""Folds in the code that Inductor generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

import roam
from roam.bench.batches import Batch
from roam.bench.zoo import TINY, loss
from roam.lowering.inductor import folds
from roam.optim import AdamA, absorbing
from roam.optim.updates import Release, release
from tests.helpers import assert_equal, folding_step, measured_as_planned, random

pytestmark = pytest.mark.usefixtures("shared_kernels")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many gradients each call of the optimizer took."""
    calls: list[int] = []

    def counted(updates: Sequence[Release]) -> None:
        calls.append(len(updates))
        release(updates)

    monkeypatch.setattr(absorbing, "release", counted)
    return calls


def qwen() -> tuple[nn.Module, Batch]:
    entry = replace(TINY["qwen3"], config={**TINY["qwen3"].config, "num_hidden_layers": 1})
    return entry.build().eval(), entry.batch()


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.layers(x).square().mean()}


def layers() -> tuple[nn.Module, Batch]:
    return Layers(), {"x": random(5, 8)}


@pytest.mark.parametrize("build", [layers, pytest.param(qwen, marks=pytest.mark.slow)])
def test_small_folds_share_calls_of_the_optimizer(
    build: Callable[[], tuple[nn.Module, Batch]], calls: list[int]
) -> None:
    trained = []
    for backend in ("inductor", "roam"):
        torch.manual_seed(0)
        model, batch = build()
        weights = list(model.parameters())
        fold = backend == "roam"
        optimizer: torch.optim.Optimizer = (
            AdamA(weights) if fold else torch.optim.AdamW(weights, fused=True)
        )
        options = {"optimizer": optimizer} if fold else None
        step = torch.compile(loss, backend=backend, options=options)
        for _ in range(2):
            step(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append([w.detach() for w in weights])
        torch._dynamo.reset()
    assert_equal(trained[1], trained[0])
    a_step = calls[: len(calls) // 2]
    assert calls == a_step + a_step
    assert sum(a_step) == len(trained[0])
    assert len(a_step) <= sum(a_step) / 3
    [graph] = roam.report().graphs
    assert graph.plan is not None
    assert graph.plan.peak == graph.plan.live_peak


@dataclass
class Node:
    """A scheduler's node. scratch: of a fold; None is another op."""

    scratch: int | None = None
    name: str = ""

    @property
    def node(self) -> Node:
        return self

    def set_python_kernel_name(self, name: str) -> None:
        self.name = name


def test_folds_that_allocate_are_called_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were planned with the gradients of those before them gone."""

    def release(node: Node) -> Any:
        return (
            None if node.scratch is None else SimpleNamespace(scratch=node.scratch, in_block=False)
        )

    monkeypatch.setattr(folds, "release_of", release)
    header: list[str] = []
    wrapper = SimpleNamespace(header=SimpleNamespace(writeline=header.append))
    graph: Any = SimpleNamespace(cpp_wrapper=False, wrapper_code=wrapper)
    nodes: Any = [Node(s) for s in (None, 0, 0, 8, 0, 0, None, 8, 8, 0)]
    folds.call_together(graph, nodes)
    assert [node.name.removeprefix("fold_") for node in nodes] == [
        *("", "later", "now", "now", "later", "now", "", "now", "now", "now"),
    ]
    for without in ([], [Node()]):
        folds.call_together(graph, without)  # type: ignore[arg-type]
    assert header == ["from roam.lowering.inductor.folds import fold_later, fold_now"]


def test_what_dies_is_written_over_and_not_what_the_kernel_made() -> None:
    """CLIP's activation. To Inductor the product that its backward adds to is as good a place."""
    model = nn.Sequential(nn.Linear(32, 128), QuickGELUActivation(), nn.Linear(128, 32))
    step = folding_step(lambda x: model(x).square().sum(), model, random(512, 32))
    step()
    assert not measured_as_planned(step).blocks
