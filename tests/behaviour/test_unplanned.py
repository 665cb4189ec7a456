"""What cannot be planned runs without a plan: said once, counted, and with the same results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.passes.rewrites.table import EXACT
from tests.helpers import (
    assert_counts,
    calls,
    check,
    compiler,
    mlp,
    random,
    total,
    warned,
)

pytestmark = pytest.mark.usefixtures("everything_placed")


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_sizes_that_depend_on_data() -> None:
    def choosing(w: Tensor, x: Tensor) -> Tensor:
        return (w[x.sum(1).gt(0).nonzero()[:, 0]] * 2).sin()

    check(calls(choosing, (5, 8)), random(5, 8), planned=0, unplanned=1)
    (graph,) = roam.report().graphs
    assert graph.reason is not None
    assert "nonzero" in graph.reason
    assert "depends on data" in graph.reason


@torch._dynamo.config.patch(capture_scalar_outputs=True)
def test_numbers_that_depend_on_data() -> None:
    def scaling(w: Tensor, x: Tensor) -> Tensor:
        n = int(x.gt(0).sum().item())
        torch._check(n >= 0)
        return w.sin().expand(n, 5, 8).sum(0) * n

    check(calls(scaling, (5, 8)), random(5, 8), planned=0, unplanned=1)
    (graph,) = roam.report().graphs
    assert "depends on data" in str(graph.reason)


def test_sparse_gradients() -> None:
    check(lambda: nn.Embedding(10, 8, sparse=True), torch.arange(5), planned=0, unplanned=1)
    (graph,) = roam.report().graphs
    assert "sparse" in str(graph.reason)


def test_what_cannot_be_planned_is_said_once_for_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no plan today")

    for module in ("free_recompute", "edited_graph"):
        monkeypatch.setattr(f"roam.lowering.aten.{module}.plan", fail)
    check(mlp, random(5, 8), planned=0, unplanned=1)
    with warned(1) as messages:
        run = compiler("step")(mlp())
        for _ in range(3):
            total(run(random(5, 8))).backward()  # type: ignore[no-untyped-call]
    assert "without a plan" in messages[0]
    assert "no plan today" in messages[0]


@pytest.mark.parametrize(
    "part",
    [
        "kernels.lower",
        "partitioned_graph.capture",
        "partitioned_graph.probe",
        "partitioned_graph.renew_recomputed",
    ],
)
def test_whatever_fails_training_goes_on(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(f"roam.lowering.aten.{part}", fail)
    check(mlp, random(5, 8), planned=0, unplanned=1)


def test_a_rewrite_that_fails_leaves_the_graph_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        name = "broken"

        def __call__(self, module: torch.fx.GraphModule) -> int:
            for node in list(module.graph.nodes):
                if node.target is torch.ops.aten.relu.default:
                    node.replace_all_uses_with(node.args[0])
                    raise RuntimeError("a bug")
            return 0

    monkeypatch.setitem(EXACT, "aten", (Broken(),))
    check(mlp, random(5, 8))


def test_torch_compile_of_a_function_without_tensors_of_its_own() -> None:
    run = compiler("step")(lambda x: x.view(-1))
    assert run(torch.ones(2, 3)).shape == (6,)
    assert_counts(planned=1)
