"""Scratch space that only running an op can tell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

import roam
from roam.capture import scratch_probe
from roam.capture.op_calls import Call
from roam.capture.symbolic_sizes import Numbers
from roam.core.problem import Problem
from roam.passes import add_mm
from tests.helpers import compiler, mlp, random, unfused
from tests.passes.graphs import node_of

aten = torch.ops.aten


def planned() -> Problem:
    torch._dynamo.reset()
    roam.reset_report()
    scratch_probe._known.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    unfused(model)(torch.randn(2, 3, 16, 16)).sum().backward()
    [graph] = roam.report().graphs
    assert graph.problem is not None
    return graph.problem


def test_a_running_profiler_changes_no_plan() -> None:
    """A first step under the user's profiler once had no scratch space measured at all."""
    expected = planned()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        found = planned()
    assert [op.scratch for op in found.ops] == [op.scratch for op in expected.ops]
    assert any(op.scratch for op in expected.ops)


def test_measuring_draws_no_random_numbers() -> None:
    """multinomial is run on zeros, and the user's generator stands where it stood."""

    def draw(x: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(x.softmax(-1), 2)

    x = torch.randn(4, 16)
    results = []
    for backend in ("aot_eager", "step"):
        torch._dynamo.reset()
        torch.manual_seed(7)
        results.append((compiler(backend)(draw)(x), torch.rand(3)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_reduced_loss_does_not_keep_the_memory_of_its_terms() -> None:
    """mse_loss returns its number in a storage as large as the input: a step once kept it."""
    weight = torch.randn(500, 500, requires_grad=True)
    x, y = torch.randn(500, 500), torch.rand(500, 500)

    def step() -> None:
        loss(x, y).backward()
        weight.grad = None

    for function in (nn.functional.mse_loss, nn.functional.smooth_l1_loss):
        torch._dynamo.reset()
        roam.reset_report()
        loss = unfused(lambda x, y, f=function: f(x @ weight, y))
        step()
        [graph] = roam.report().graphs
        assert graph.plan is not None
        assert abs(roam.measure_peak(step).peak - graph.plan.peak) <= 64


def call(op: Any, *args: Any) -> Call:
    return Call.of(node_of(op, args, {}, op(*args)), Numbers())


def images(*shape: int) -> torch.Tensor:
    return torch.empty(shape)


CONVOLUTION = [2, 2], [0, 0], [1, 1], False, [0, 0], 1
MIDDLING: dict[str, Callable[[], Call]] = {  # 4 to 30 MiB
    "a product": lambda: call(aten.mm.default, images(500, 768), images(768, 1000)),
    "a product that copies": lambda: call(
        aten.mm.default, images(1024, 1536)[:, ::2], images(768, 1000)
    ),
    "a sort": lambda: call(aten.sort.default, images(1000, 700)),
    "a loss in the memory of its terms": lambda: call(
        aten.mse_loss.default, images(700, 1500), images(700, 1500), 1
    ),
    "a convolution": lambda: call(
        aten.convolution.default, images(2, 17, 301, 299), images(33, 17, 3, 3), None, *CONVOLUTION
    ),
    "its backward": lambda: call(
        aten.convolution_backward.default,
        images(2, 32, 149, 149), images(2, 16, 300, 300), images(32, 16, 3, 3),
        None, *CONVOLUTION, [True, True, False],
    ),
    "attention": lambda: call(
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        *(images(1, 4, 3000, 64) for _ in range(3)), 0.0, True,
    ),
    "batch norm's backward": lambda: call(
        aten.native_batch_norm_backward.default,
        *(images(4, 32, 80, 80) for _ in range(2)), *(images(32) for _ in range(5)),
        True, 1e-5, [True, True, True],
    ),
    "distances": lambda: call(
        aten._cdist_forward.default, images(900, 20), images(800, 20), 2.0, None
    ),
    "many axes": lambda: call(aten.cumsum.default, images(70, 60, 50, 20), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", MIDDLING)
def test_what_is_estimated_is_what_would_be_measured(name: str) -> None:
    with FakeTensorMode():
        given = MIDDLING[name]()
    needed = sum(r.nbytes for r in given.results)
    if given.target is aten.mse_loss.default:
        needed = 4
    measured = scratch_probe._scratch(given, needed)
    limits = 3 * given.nbytes // 4, given.nbytes // 2
    estimated = scratch_probe._scratch(given, needed, *limits)
    assert (measured.estimated, estimated.estimated) == (False, True)
    assert estimated.nbytes == measured.nbytes


STEPS = {
    # sizes and bytes: a parabola made 190 MiB of 3
    "a large step": ((6945, 8097, 9249), (3_049_216, 3_086_080, 3_405_568)),
    # a line made 36 MB of 0.4 at 128,256
    "steps that get larger": ((1408, 1600, 1792), (303_232, 335_488, 410_752)),
    "a step back": ((2224, 2544, 2864), (253_504, 351_616, 307_264)),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_a_kernels_blocks_are_no_growth(name: str) -> None:
    """Of bfloat16 products: what they allocate does not grow in the long run."""
    sizes, bytes_ = STEPS[name]
    assert scratch_probe._grows_in_steps(sizes, [Fraction(n) for n in bytes_])


@pytest.mark.parametrize("power", [1, 2])
def test_growth_is_told_from_steps(power: int) -> None:
    sizes = 6945, 8097, 9249
    grown = [Fraction(n**power) for n in sizes]
    assert not scratch_probe._grows_in_steps(sizes, grown)
    assert scratch_probe._extrapolated(sizes, grown, 50_257) == 50_257**power


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bfloat16_product_is_estimated_by_a_size_further_off(threads: int) -> None:
    """The gradient of a head's weight, which takes less than 1 MB, was planned with 36 MB.

    Three sizes near each other grow on a line, too, but by less than a copy of an operand.
    """
    rows, width, words = 512, 2048, 128_256
    with FakeTensorMode():
        gradient = torch.empty(rows, words, dtype=torch.bfloat16).t()
        given = call(torch.ops.aten.mm.default, gradient, images(rows, width).bfloat16())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    estimated = scratch_probe._scratch(given, 2 * words * width)
    torch.set_num_threads(before)
    assert estimated.estimated
    assert estimated.nbytes < 2**22


def test_a_call_that_reads_much_and_writes_little_is_measured() -> None:
    """Its operands are zeros that take no memory."""
    with FakeTensorMode():
        given = call(aten.mv.default, images(5_000, 6_000), images(6_000))
    assert given.nbytes > scratch_probe.CAP
    found = scratch_probe._scratch(given, given.results[0].nbytes)
    assert found == scratch_probe.Scratch(0, estimated=False)


def test_what_is_estimated_is_said() -> None:
    with torch.device("meta"):
        model, x = mlp(100_000), torch.empty(1000, 8)
    found = roam.plan(model, x, loss=lambda y: y.sum(), lowering="aten")
    (graph,) = found.graphs
    assert "addmm" in graph.estimated
    assert f"scratch space of {len(graph.estimated)} ops is estimated" in str(found)
    assert type(found).from_json(found.to_json()).graphs == found.graphs
    assert "scratch space" not in str(roam.plan(mlp(), random(5, 8), loss=lambda y: y.sum()))


LARGE = """
import resource
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
import roam

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

class Attention(nn.Module):
    def forward(self, q, k, v):
        return scaled_dot_product_attention(q, k, v, is_causal=True)

def plan(model, *batch, **how):
    return roam.plan(model, *batch, loss=lambda y: y.square().mean(), **how)

torch.set_num_threads(1)
with torch.device("meta"):
    plan(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.empty(4, 8), lowering={lowering!r})
    resource.setrlimit(resource.RLIMIT_DATA, (peak() + 2**32, -1))  # should all else fail
    wide = nn.Sequential(*(nn.Linear(32768, 32768) for _ in range(5)))
    qkv = (torch.empty(1, 12, 131072, 64, requires_grad=True) for _ in range(3))
    for model, batch in (
        (nn.Linear(100_000, 100_000), (torch.empty(64, 100_000),)),
        (wide, (torch.empty(2048, 32768),)),
        (nn.Conv2d(3, 64, 3), (torch.empty(1, 3, 8192, 8192),)),
        (Attention(), qkv),
    ):
        before = peak()
        found = plan(model, *batch, lowering={lowering!r})
        print(found.total >> 20, peak() - before >> 20)
"""


@pytest.mark.parametrize("lowering", ["aten", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_step_of_any_size_is_planned_in_little_memory(lowering: str) -> None:
    """64 MiB of real tensors, and the compiler's own; the smallest of these steps takes 3 GiB."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE.format(lowering=lowering)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(rows) == 4
    assert min(total for total, _ in rows) > 1500
    assert sum(total for total, _ in rows) > 100_000
    assert max(taken for _, taken in rows) < 250, rows


def test_sums_of_products_are_measured() -> None:
    """The op is roam's own, and its kernel copies an operand with gaps between the elements."""
    acc, a, gaps = torch.zeros(40, 30), torch.zeros(40, 20), torch.zeros(20, 60)[:, ::2]
    node = node_of(add_mm.OP, (acc, a, gaps), {}, acc.clone())
    [(_, found)] = scratch_probe.probe([node.graph], Numbers()).items()
    assert found.nbytes == 20 * 30 * 4
