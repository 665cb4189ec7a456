"""What small trials show of operators is so at any size, and disturbs nothing."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from roam.capture import trials
from roam.capture.op_calls import Call, Operand, families
from roam.capture.symbolic_sizes import Numbers
from roam.passes.annotations.out_variants import OutVariant, find
from roam.passes.annotations.real_layouts import RealLayouts
from tests.passes.graphs import node_of

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_known", {})


def fake(op: Any, *args: Any) -> fx.Node:
    """The node of a call on tensors without data."""
    with FakeTensorMode() as mode:
        given = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args]
        return node_of(op, given, {}, op(*given))


def log_softmax_backward(gradient: Tensor, dim: int = -1) -> fx.Node:
    logs = torch.empty(gradient.shape).log_softmax(dim)
    return fake(aten._log_softmax_backward_data.default, gradient, logs, dim, torch.float32)


def transposed(rows: int, columns: int) -> Tensor:
    return torch.empty(columns, rows).t()


def trusted(node: fx.Node) -> bool:
    variant = find(node)
    assert variant is not None
    return trials.writes_into(node, variant)


@pytest.mark.parametrize("size", [(30, 20), (3000, 2001)])
def test_a_kernel_that_ignores_the_strides_of_its_out(size: tuple[int, int]) -> None:
    assert trusted(log_softmax_backward(torch.empty(size)))
    node = log_softmax_backward(transposed(*size))
    assert node.meta["val"].stride() == (1, size[0])  # or fake tensors have learned
    assert not trusted(node)
    assert trials.layouts(node) == ((0, 1),)


def test_a_false_fake_value_is_corrected_and_what_reads_it_too() -> None:
    node = log_softmax_backward(transposed(30, 20))
    with node.graph.inserting_after(node):
        view = node.graph.call_function(aten.t.default, (node,))
    with node.graph.inserting_after(view):
        doubled = node.graph.call_function(aten.add.Tensor, (view, view))
    for n in (view, doubled):
        n.meta["val"] = n.target(*fx.map_arg(n.args, lambda s: s.meta["val"]))  # type: ignore
    assert doubled.meta["val"].stride() == (30, 1)
    module = fx.GraphModule(torch.nn.Module(), node.graph)
    assert RealLayouts(trials.layouts)(module) == 2
    strides = {n.name: n.meta["val"].stride() for n in module.graph.nodes if "val" in n.meta}
    named = strides[node.name], strides[view.name], strides[doubled.name]
    assert named == ((20, 1), (1, 20), (1, 20))


def test_a_right_fake_value_is_left_alone() -> None:
    node = log_softmax_backward(torch.empty(30, 20))
    before = node.meta["val"]
    assert RealLayouts(trials.layouts)(fx.GraphModule(torch.nn.Module(), node.graph)) == 0
    assert node.meta["val"] is before


def wrong(kind: str) -> OutVariant:
    """A form of `exp` that is wrong in one way."""

    def out_form(x: Tensor, *, out: Tensor) -> Tensor:
        if kind == "resizes":
            return torch.exp(x, out=out.resize_(x.numel() * 3)[: x.numel()]).view(x.shape)
        if kind == "writes beyond":
            out.as_strided((1,), (1,), out.storage_offset() + out.numel()).fill_(1)
        if kind == "raises":
            raise RuntimeError("no")
        if kind == "zeroes first":
            out.zero_()
        return torch.exp(x, out=out.view(-1).view(x.shape)) if kind != "does nothing" else out

    return OutVariant(out_form, ("out",))


@pytest.mark.parametrize("kind", ["resizes", "writes beyond", "raises", "does nothing"])
def test_a_wrong_form_is_not_trusted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "find", lambda _: wrong(kind))
    node = fake(aten.exp.default, torch.empty(40, 30))
    assert not trials.writes_into(node, wrong(kind))


def test_a_form_that_writes_before_it_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = wrong("zeroes first")
    monkeypatch.setattr(trials, "find", lambda _: variant)
    node = fake(aten.exp.default, torch.empty(40, 30))
    assert trials.writes_into(node, variant)
    assert not trials.writes_over(node, variant, node.all_input_nodes[0])


def test_what_cannot_be_tried_is_trusted_if_it_is_ours_or_pointwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, "_first", lambda *_: None)
    x = torch.empty(4, 4)
    assert trusted(fake(aten.exp.default, x))
    assert trusted(fake(aten.clone.default, x))
    assert not trusted(fake(aten.mm.default, x, x))


def test_nothing_of_the_users_is_touched() -> None:
    """Nor does anything of the user's reach into the trial: fake tensors, autocast, a device."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    node = fake(aten.bernoulli.default, torch.empty(40, 30))
    product = fake(aten.mm.default, torch.empty(40, 30), torch.empty(30, 20))
    with (
        warnings.catch_warnings(record=True) as seen,
        profile(activities=[ProfilerActivity.CPU]) as events,
        torch.autocast("cpu"),
        torch.device("meta"),
        torch.inference_mode(),
        torch.autograd.set_detect_anomaly(True),
        FakeTensorMode(),
    ):
        warnings.simplefilter("always")
        seen.clear()
        assert trusted(node)
        assert trusted(product)
    assert torch.equal(torch.get_rng_state(), before)
    assert not [w for w in seen if "Anomaly" not in str(w.message)]
    assert not [e for e in events.events() if e.name in ("aten::mm", "aten::bernoulli")]


def test_a_trial_is_remembered_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Call] = []
    real = trials._try

    def noted(call: Call, variant: OutVariant | None, wholes: int) -> Any:
        tried.append(call)
        return real(call, variant, wholes)

    monkeypatch.setattr(trials, "_try", noted)
    for _ in range(2):
        with FakeTensorMode():
            x, y = torch.empty(2**18, 2**14), torch.empty(2**14, 2**13)
            node = node_of(aten.mm.default, (x, y), {}, x @ y)
        assert trusted(node)
    assert len(tried) == 1
    assert tried[0].nbytes <= trials.BYTES


LARGE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "a product": (aten.mm.default, (("f", 4096, 8191), ("f", 8191, 5000))),
    "a slice of a projection": (aten.bmm.default, (("f", 12, 4096, 64), ("f", 12, 64, 4096))),
    "valid convolution": (
        aten.convolution_backward.default,
        (
            *(("f", 4, 64, 1022, 1022), ("f", 4, 32, 1024, 1024), ("f", 64, 32, 3, 3), None),
            *([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]),
        ),
    ),
    "pooling": (
        aten.max_pool2d_with_indices_backward.default,
        (
            *(("f", 4, 64, 512, 512), ("f", 4, 64, 1024, 1024)),
            *([2, 2], [2, 2], [0, 0], [1, 1], False, ("i", 4, 64, 512, 512)),
        ),
    ),
    "group norm": (
        aten.native_group_norm.default,
        (("f", 8, 640, 96, 80), ("f", 640), ("f", 640), 8, 640, 7680, 32, 1e-5),
    ),
    "an embedding": (
        aten.embedding_dense_backward.default,
        (("f", 8, 2048, 4096), ("i", 8, 2048), 250_000, -1, False),
    ),
    "part of a gradient": (aten.slice_backward.default, (("f", 8, 4095), [8, 4096], 1, 0, 4095, 1)),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_calls_are_lowered_to_ones_that_run(name: str) -> None:
    op, args = LARGE[name]

    def operand(a: Any) -> Any:
        if not isinstance(a, tuple):
            return a
        return torch.empty(a[1:], dtype=torch.int64 if a[0] == "i" else torch.float32)

    with FakeTensorMode():
        given = [operand(a) for a in args]
        node = node_of(op, given, {}, op(*given))
    call = Call.of(node, Numbers())
    ran = []
    for family in families(call):
        limits = family.within(2**20)
        if limits is None:
            continue
        small = family.at(limits)
        assert small.nbytes <= 2**20
        made = small.made(lambda x: torch.zeros(x.shape, dtype=x.dtype))
        try:
            op(*made.args)
        except RuntimeError:
            continue
        ran.append(family)
    assert ran


def test_gaps_overlaps_and_the_order_of_dims_stay() -> None:
    def lowered(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        x = Operand(torch.float32, torch.device("cpu"), shape, stride)
        small = x.resized(lambda n: min(n, 32))
        return small.shape, small.stride

    assert lowered((1024, 768), (768, 1)) == ((32, 32), (32, 1))
    assert lowered((1024, 768), (1, 1024)) == ((32, 32), (1, 32))
    assert lowered((1024, 768), (2304, 1)) == ((32, 32), (96, 1))  # a third of a projection
    assert lowered((1024, 768), (0, 1)) == ((32, 32), (0, 1))
    assert lowered((1024, 768), (1536, 2)) == ((32, 32), (64, 2))
    assert lowered((8, 3, 64, 64), (12288, 1, 192, 3)) == ((8, 3, 32, 32), (3072, 1, 96, 3))
