"""Rewrites that keep saved tensors smaller: what they change, and that they change nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import roam
from roam.core.errors import OptionError
from roam.core.problem import Home, Kind
from roam.inspect.measure import measure_peak
from roam.optim import AdamA
from roam.options import Options
from roam.passes import RAD, WTACRS, ApproxBP, Quantized, VeLoRA
from roam.passes.rewrites.saved import Method, Noise, Restored, SavedTensor
from tests.behaviour.shrunk_training import Mlp, changed, compiled, gradients, inputs, shrunk
from tests.behaviour.small_nets import Block, Loss
from tests.helpers import random

pytestmark = pytest.mark.usefixtures("shared_kernels")
both_lowerings = pytest.mark.parametrize("lowering", ["aten", "inductor"])
ALL = [WTACRS(), Quantized(), Quantized(bits=4), ApproxBP(), RAD(), VeLoRA(groups=8)]


@pytest.mark.parametrize("lowering", ["aten", pytest.param("inductor", marks=pytest.mark.slow)])
def test_only_sampled_weights_change(lowering: str) -> None:
    """The loss, the gradient of the input and those of biases and norms keep every bit."""
    model, x = Mlp(), inputs()
    how = {"lowering": lowering, "recompute": False}
    exact = gradients(model, compiled(model, [], **how), x)
    run = compiled(model, [WTACRS(keep=0.25, modules=("up",))], **how)
    first, again, other = (gradients(model, run, x, seed) for seed in (0, 0, 1))
    assert changed(first, exact) == {"up.weight"}
    assert changed(again, first) == set()  # torch.manual_seed makes samples reproducible
    assert changed(other, first) == {"up.weight"}
    gradients(model, run, x)
    loss = run(x)  # a further step without a new seed
    model.zero_grad()
    loss.backward()
    assert not torch.equal(model.up.weight.grad, first["up.weight"])  # type: ignore[arg-type]


@pytest.mark.parametrize("lowering", ["aten", pytest.param("inductor", marks=pytest.mark.slow)])
def test_two_rewrites_pay_where_neither_does_alone(lowering: str) -> None:
    """Codes of an activation's input, and rows of its result, else recomputed of the input."""
    model, x = Mlp(), inputs(1024)  # 4 MiB: recomputed without being asked for
    run = compiled(model, [ApproxBP(), WTACRS()], lowering=lowering)
    gradients(model, run, x)
    kept = [s for s in shrunk().tensors if not s.reason]
    assert {s.rewrite for s in kept} == {"approx-bp", "wta-crs"}
    assert shrunk().removed > 0.6 * 4 * 2**20


@pytest.mark.parametrize("rewrite", [ApproxBP(), WTACRS(modules=("down",))])
def test_what_is_recomputed_for_nothing_is_not_kept_smaller(rewrite: Any) -> None:
    model, x = Mlp(), inputs()
    exact = gradients(model, compiled(model, []), x)
    found = gradients(model, compiled(model, [rewrite]), x)
    assert changed(found, exact) == set()
    assert shrunk().removed == 0
    assert all("recomputed" in s.reason for s in shrunk().tensors)


@pytest.mark.parametrize("rewrite", ALL, ids=lambda r: f"{r.name}")
def test_a_step_takes_what_is_planned(rewrite: Any) -> None:
    model, x = Mlp(), inputs()
    run = compiled(model, [rewrite], recompute=False)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        run(x.detach()).backward()

    step()
    step()
    model.zero_grad(set_to_none=True)
    peak = measure_peak(step).peak
    [(_, plan)] = roam.report().step.planned
    assert shrunk().removed > 0
    assert abs(peak - plan.peak) <= 0.01 * peak


def test_a_tensor_that_another_op_needs_whole_stays_whole() -> None:
    model = Loss(lambda: nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 8)))
    x = inputs()
    exact = gradients(model, compiled(model, []), x)
    found = gradients(model, compiled(model, [WTACRS()]), x)
    assert changed(found, exact) == set()
    [tensor] = shrunk().tensors
    assert (tensor.module, tensor.after) == ("model.2, model.1", tensor.before)
    assert "tanh_backward.default of model.1 needs all of it" in tensor.reason
    assert "stays whole" in str(roam.report().step.explain())


@pytest.mark.slow
def test_inductor_plans_are_of_what_is_kept() -> None:
    plans = [
        roam.plan(Mlp(), inputs(), lowering="inductor", rewrites=rewrites)
        for rewrites in ([], [Quantized()], [ApproxBP(), WTACRS()])
    ]
    saved = [
        sum(b.size for b in problem.buffers if b.kind is Kind.SAVED and b.home is not Home.USER)
        for plan in plans
        for problem, _ in plan.planned
    ]
    for plan, size in zip(plans[1:], saved[1:], strict=True):
        kept = plan.graphs[0].shrunk
        assert kept is not None
        assert 0 < kept.removed <= 1.02 * (saved[0] - size)


def test_a_pattern_restricts_a_rewrite_to_modules() -> None:
    model, x = Mlp(), inputs()
    exact = gradients(model, compiled(model, []), x)
    run = compiled(model, [WTACRS(modules=("up",))], recompute=False)
    assert changed(gradients(model, run, x), exact) == {"up.weight"}
    assert {s.module for s in shrunk().tensors} == {"up"}


@pytest.mark.parametrize("sampler", ["threshold", "winners"])
def test_all_rows_are_the_exact_gradient(sampler: str) -> None:
    model, x = Mlp(), inputs()
    exact = gradients(model, compiled(model, []), x)
    run = compiled(model, [WTACRS(keep=1.0, sampler=sampler)], recompute=False)
    assert changed(gradients(model, run, x), exact) == set()


def test_the_papers_sampler_runs_in_a_graph() -> None:
    model, x = Mlp(), inputs()
    exact = gradients(model, compiled(model, []), x)
    run = compiled(model, [WTACRS(sampler="winners")], recompute=False)
    assert changed(gradients(model, run, x), exact) == {"up.weight", "down.weight"}


def test_restored_tensors_replace_what_is_recomputed_of_them() -> None:
    model, x = Mlp(), inputs()
    exact = gradients(model, compiled(model, []), x)
    found = gradients(model, compiled(model, [Quantized()]), x)
    assert [s.module for s in shrunk().tensors if "down" in s.module] == []  # made of up's result
    assert torch.equal(found["loss"], exact["loss"])
    for name in changed(found, exact):
        assert float((found[name] - exact[name]).norm() / exact[name].norm()) < 0.02


class Blocks(nn.Module):
    """Three blocks, the first of them in the user's checkpoint() if asked for. x: [256, 32]."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(dropout=0.0) for _ in range(3))
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            again = self.checkpointed and i == 0
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x.square().mean()


@pytest.mark.slow
def test_a_budget_dynamic_shapes_and_adama_get_the_same_samples() -> None:
    model, x, rewrites = Blocks(), random(256, 32).requires_grad_(), [WTACRS(keep=0.25)]
    expected = gradients(model, compiled(model, rewrites), x)
    exact = gradients(model, compiled(model, []), x)
    sampled = {f"blocks.{i}.up.weight" for i in range(3)}  # down's inputs are recomputed instead
    assert changed(expected, exact) == sampled
    found = gradients(model, compiled(model, rewrites, budget="80%"), x)
    assert roam.report().graphs[0].recomputed is not None
    assert changed(found, expected) == set()
    torch._dynamo.reset()
    options = {"lowering": "aten", "rewrites": rewrites}
    dynamic = torch.compile(model, backend="roam", dynamic=True, options=options)
    gradients(model, dynamic, random(192, 32).requires_grad_())
    assert changed(gradients(model, dynamic, x), expected) == set()
    optimizer = AdamA(model.parameters(), lr=0.0)
    model.zero_grad()
    torch.manual_seed(0)
    compiled(model, rewrites, optimizer=optimizer)(x).backward()
    for name, parameter in model.named_parameters():
        first = 0.1 * expected[name]  # (1 - beta1) of the gradient
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], first)


def test_a_region_of_checkpoint_stays_exact_and_the_rest_gets_the_same_samples() -> None:
    x = random(256, 32).requires_grad_()
    plain, model = Blocks(), Blocks(checkpointed=True)
    exact = gradients(plain, compiled(plain, []), x)
    without = gradients(plain, compiled(plain, [WTACRS()]), x)
    found = gradients(model, compiled(model, [WTACRS()]), x)
    assert changed(found, without) == {"blocks.0.up.weight"}
    assert torch.equal(found["blocks.0.up.weight"], exact["blocks.0.up.weight"])
    assert any("checkpoint()" in s.reason for s in shrunk().tensors)


@dataclass(frozen=True)
class Halves:
    """A toy: saves float32 as float16."""

    modules: tuple[str, ...] = ("*",)
    name: str = "halves"
    exact: bool = False

    def method(self, tensor: SavedTensor) -> Method:
        if tensor.value.dtype is not torch.float32:
            return None

        def keep(x: Tensor, noise: Noise) -> tuple[Tensor]:
            return (x.to(torch.float16),)

        return Restored(keep, lambda saved: saved[0].to(torch.float32))


def test_a_rewrite_of_the_users_own_is_one_dataclass() -> None:
    model, x = Mlp(), inputs()
    exact = gradients(model, compiled(model, []), x)
    found = gradients(model, compiled(model, [Halves()]), x)
    for name in exact:
        torch.testing.assert_close(found[name], exact[name], rtol=0.01, atol=1e-4)
    kept = [s for s in shrunk().tensors if not s.reason]
    assert sum(s.before for s in kept) == 2 * sum(s.after for s in kept) > 0


def test_names_and_offline_plans() -> None:
    plan = roam.plan(Mlp(), inputs(), lowering="aten", rewrites=["quantized"])
    assert "saved tensors kept smaller" in str(plan)
    again = type(plan).from_json(plan.to_json())
    assert again.graphs[0].shrunk == plan.graphs[0].shrunk
    kept = (
        roam.plan(Mlp(), inputs(), lowering="aten", rewrites=["quantized:bits=4"]).graphs[0].shrunk
    )
    assert kept is not None
    assert plan.graphs[0].shrunk is not None
    assert kept.removed > plan.graphs[0].shrunk.removed


@pytest.mark.parametrize(
    ("rewrite", "says"),
    [
        ("wta", "knows no 'wta': the names are wta-crs, quantized"),
        ("quantized:depth=4", "quantized has no 'depth', but bits, group"),
        ("wta-crs:0.3", "a value needs the name of its field before it"),
        ("wta-crs:keep=", "not fields as in 'wta-crs:keep=0.1'"),
        ("wta-crs:keep=much", "Expected `float`, got `str` - at `$.keep`"),
        ("wta-crs:keep=2", "keep of wta-crs is a share above 0 and up to 1, not 2"),
        ("wta-crs:modules=up", "Expected `array`, got `str` - at `$.modules`"),
        (WTACRS(modules="up"), "modules of wta-crs is a tuple of patterns, not 'up'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_rewrite_is_refused(rewrite: Any, says: str) -> None:
    with pytest.raises(OptionError, match=re.escape(says)):
        Options.parse({"rewrites": [rewrite]}, None)


def test_fields_behind_a_name_are_those_of_a_call() -> None:
    text = "wta-crs:keep=0.1,modules=('h.*', 'head'),sampler=winners"
    found = Options.parse({"rewrites": [text]}, None).rewrites
    assert found == (WTACRS(keep=0.1, modules=("h.*", "head"), sampler="winners"),)
