"""The inductor lowering: never above Inductor's peak, as exact as Inductor, planned = measured."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.codegen.cpp import CppScheduling

import roam
from roam.bench.zoo import TINY, Entry, loss
from roam.core.errors import OptionError, UnplannedWarning
from roam.lowering import inductor, inductor_order
from roam.lowering.inductor_notes import find
from roam.optim import AdamA
from tests.helpers import assert_counts, mlp, random

ENTRIES = [
    pytest.param(TINY[n], id=n, marks=() if n == "gpt2" else pytest.mark.slow)
    for n in ("gpt2", "vit", "resnet", "mobilenetv2", "bert", "llama", "convnext", "t5", "mamba")
]


@pytest.fixture(autouse=True, scope="module")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled kernels are shared among these tests, graphs are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        patch.setattr("torch._inductor.config.fx_graph_cache", False)
        patch.setattr("torch._functorch.config.enable_autograd_cache", False)
        yield


def compiled(function: Any, **options: Any) -> Any:
    return torch.compile(function, backend="roam", options={"lowering": "inductor", **options})


def gradients(
    model: nn.Module, batch: dict[str, Tensor], step: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """The loss and the gradients of one step, in float64."""
    model.zero_grad(set_to_none=True)
    value = step(model, batch)
    value.backward()
    found = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"loss": value.detach().double(), **found}


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest error of a tensor, by the tensor's norm."""
    assert found.keys() == exact.keys()
    return max(float((found[n] - exact[n]).norm() / (exact[n].norm() + 1e-12)) for n in exact)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_step(entry: Entry) -> None:
    """Against Inductor: the peak is never above, the error from float64 no larger."""
    model, batch = entry.build().eval(), entry.batch()
    exactly = copy.deepcopy(model).double()
    floats = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    exact = gradients(exactly, floats, loss)

    def measured(step: Callable[..., Tensor]) -> tuple[float, int]:
        def run() -> None:
            step(model, batch).backward()
            model.zero_grad(set_to_none=True)

        wrong = error(gradients(model, batch, step), exact)
        return wrong, roam.measure_peak(run, warm_up=run).peak

    their_error, their_peak = measured(torch.compile(loss, backend="inductor"))
    torch._dynamo.reset()
    our_error, our_peak = measured(compiled(loss))

    assert our_error <= 1.05 * their_error + 1e-7
    assert our_peak <= their_peak
    plan = roam.report().graphs[-1].plan
    assert plan is not None
    assert abs(plan.peak - our_peak) <= 0.01 * our_peak


def test_folded_gradients_train_the_same_in_less() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.LayerNorm(64))
    theirs = copy.deepcopy(ours)
    x = random(4, 64)
    folding = AdamA(ours.parameters(), lr=1e-2)
    usual = torch.optim.AdamW(theirs.parameters(), lr=1e-2, fused=True)
    steps = (
        _training(compiled(ours, optimizer=folding), folding, x),
        _training(torch.compile(theirs), usual, x),
    )
    for _ in range(3):
        for step in steps:
            step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.grad is None
        assert torch.equal(p, q)
    mine, usual_peak = (roam.measure_peak(step, warm_up=step).peak for step in steps)
    assert mine < 0.6 * usual_peak  # what is left is the largest gradient, not all of them

    plan = roam.report().graphs[-1].plan
    assert plan is not None
    state = sum(2 * p.nbytes + 4 for p in ours.parameters())
    assert plan.persistent == sum(p.nbytes for p in ours.parameters()) + x.nbytes + state


def _training(model: Any, optimizer: Any, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def test_a_parameter_that_two_calls_use_is_folded_once_its_gradient_is_complete() -> None:
    ours, x, y = mlp(), random(5, 8), random(3, 8)
    theirs = copy.deepcopy(ours)
    folding = AdamA(ours.parameters(), lr=1e-2)
    usual = torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    twice = ((compiled(ours, optimizer=folding), folding), (theirs, usual))
    for _ in range(2):
        for model, optimizer in twice:
            (model(x).sum() + model(y).square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert sum(roam.report().detours.values()) > 0


def test_micro_batches_fold_into_the_state_alone() -> None:
    """Then the fold changes no parameter, and nothing in the graph but the gradient's end."""
    ours, x = mlp(), random(5, 8)
    theirs = copy.deepcopy(ours)
    pair = [
        (model, AdamA(m.parameters(), lr=1e-2, mode="accumulate", micro_batches=2))
        for model, m in ((None, ours), (theirs, theirs))
    ]
    model = compiled(ours, optimizer=pair[0][1])
    for run, optimizer in ((model, pair[0][1]), (theirs, pair[1][1])):
        for _ in range(2):
            run(x).square().mean().backward()
        optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        assert p.grad is None


def test_shapes_breaks_and_inference() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = mlp(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            torch._dynamo.graph_break()
            return self.second(x)

    model = Broken()
    run = compiled(model, lowering="inductor")
    for batch in (3, 5, 7):
        x = random(batch, 8)
        torch.testing.assert_close(run(x), model(x))
        expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
        found = torch.autograd.grad(run(x).square().sum(), list(model.parameters()))
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(run(x), model(x))
    assert roam.report().unplanned == 0
    assert roam.report().planned >= 4  # two graphs, of a fixed and of any batch


def test_an_unknown_version_says_so_once_and_folds_nothing(monkeypatch: Any) -> None:
    monkeypatch.setattr(inductor, "TESTED", ("1.0",))
    inductor.is_tested.cache_clear()
    try:
        model, x = mlp(), random(5, 8)
        optimizer = AdamA(model.parameters(), lr=1e-2)
        step = _training(compiled(model, optimizer=optimizer), optimizer, x)
        with pytest.warns(UnplannedWarning, match=r"tested with torch 1\.0"):
            step()
        step()
        assert_counts(planned=1)
        graph = roam.report().graphs[0]
        assert graph.problem is not None
        assert [op.name for op in graph.problem.ops if "fold" in op.name] == []
        assert all(p.grad is None for p in model.parameters())  # the hooks folded them
    finally:
        inductor.is_tested.cache_clear()


def test_what_cannot_be_read_runs_in_inductors_own_order(monkeypatch: Any) -> None:
    def gone(*_: Any) -> None:
        raise AttributeError("another version of Inductor")

    monkeypatch.setattr(inductor_order, "read", gone)
    model, x = mlp(), random(5, 8)
    with pytest.warns(UnplannedWarning, match="leaves the order of .* to Inductor"):
        found = compiled(model)(x)
    torch.testing.assert_close(found, model(x))
    assert roam.report().unplanned == 1


def test_kernels_are_grouped_again_after_a_failure() -> None:
    before = CppScheduling.MAX_FUSED_KERNEL_ARGS_NUM
    with inductor_order.one_kernel_a_node():
        assert before > CppScheduling.MAX_FUSED_KERNEL_ARGS_NUM
    assert before == CppScheduling.MAX_FUSED_KERNEL_ARGS_NUM
    with contextlib.suppress(KeyError), inductor_order.one_kernel_a_node():
        raise KeyError
    assert before == CppScheduling.MAX_FUSED_KERNEL_ARGS_NUM


def test_a_wrong_lowering_is_an_option_error() -> None:
    model = torch.compile(mlp(), backend="roam", options={"lowering": "triton"})
    with pytest.raises(OptionError, match="lowering is 'aten' or 'inductor', not 'triton'"):
        model(random(5, 8))


CACHED = """
import torch, roam
from torch._dynamo.utils import counters
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
run = torch.compile(model, backend="roam", options={"lowering": "inductor"})
run(torch.ones(5, 8)).sum().backward()
graph, = roam.report().graphs
print(counters["aot_autograd"]["autograd_cache_hit"], graph.problem.fingerprint, graph.plan.order)
"""


def test_a_second_process_finds_the_plan_in_the_cache(tmp_path: Path) -> None:
    said = []
    root = str(Path(__file__).parents[1])
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CACHED],
            env={**os.environ, "PYTHONPATH": root, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said.append(done.stdout.split(maxsplit=1))
    assert [hits for hits, _ in said] == ["0", "1"]
    assert said[0][1] == said[1][1]


def test_code_without_a_note_has_none() -> None:
    assert find("buf0 = empty_strided_cpu((5, 8), (8, 1), torch.float32)") is None
