"""Every graph is small enough to see what happened to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from roam.passes.pipeline import run
from roam.passes.rewrites.drop_clones import DropClones
from tests.passes.graphs import printed, same_bits, trace

X = torch.randn(4, 6)


def after(fn: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> str:
    """The graph without its useless clones; checks that it computes what it did."""
    module = trace(fn, X)
    run((DropClones(),), module)
    for got, wanted in zip(flat(module(X.clone())), flat(fn(X.clone())), strict=True):
        assert same_bits(got, wanted)
        assert got.stride() == wanted.stride()
    return printed(module)


def flat(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def lines(*text: str) -> str:
    return "\n".join(text)


def test_a_useless_clone() -> None:
    assert after(lambda x: x.exp().clone().sin()) == lines(
        "exp = exp(x_1)",
        "sin = sin(exp)",
        "return sin",
    )


def test_clones_of_clones() -> None:
    assert after(lambda x: x.exp().clone().clone().clone().sin()) == lines(
        "exp = exp(x_1)",
        "sin = sin(exp)",
        "return sin",
    )


def test_clones_of_views_and_views_of_clones() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.exp().view(6, 4).clone().view(24).clone()
        return y.sin()

    assert after(fn) == lines(
        "exp = exp(x_1)",
        "view = view(exp, [6, 4])",
        "view_1 = view(view, [24])",
        "sin = sin(view_1)",
        "return sin",
    )


def test_a_clone_beside_its_source() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.exp()
        return y + y.clone()

    assert after(fn) == lines("exp = exp(x_1)", "add = add(exp, exp)", "return add")


def test_a_clone_that_changes_the_layout_is_kept() -> None:
    def fn(x: Tensor) -> Tensor:
        return x.exp().t().clone(memory_format=torch.contiguous_format).view(24).sin()

    assert after(fn) == lines(
        "exp = exp(x_1)",
        "t = t(exp)",
        "clone = clone(t, memory_format=torch.contiguous_format)",
        "view = view(clone, [24])",
        "sin = sin(view)",
        "return sin",
    )


def test_a_clone_that_keeps_a_transposed_layout_is_dropped() -> None:
    assert after(lambda x: x.exp().t().clone().sin()) == lines(
        "exp = exp(x_1)",
        "t = t(exp)",
        "sin = sin(t)",
        "return sin",
    )


def test_a_clone_of_a_part_starts_elsewhere_and_is_kept() -> None:
    assert after(lambda x: x.exp()[1:].clone().sin()) == lines(
        "exp = exp(x_1)",
        "slice_1 = slice(exp, 0, 1, 9223372036854775807)",
        "clone = clone(slice_1)",
        "sin = sin(clone)",
        "return sin",
    )


def test_a_clone_of_a_conjugate_view_is_kept() -> None:
    """It holds other bytes, though it lies in the same way."""

    def fn(x: Tensor) -> Tensor:
        conjugate = torch.complex(x, x).conj()
        return torch.view_as_real(conjugate.clone()).sin()

    assert after(fn) == lines(
        "complex_1 = complex(x_1, x_1)",
        "_conj = _conj(complex_1)",
        "clone = clone(_conj)",
        "view_as_real = view_as_real(clone)",
        "sin = sin(view_as_real)",
        "return sin",
    )


def test_a_returned_clone_is_kept() -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.exp()
        return y.clone(), y.sin()

    assert after(fn) == lines(
        "exp = exp(x_1)",
        "clone = clone(exp)",
        "sin = sin(exp)",
        "return (clone, sin)",
    )


def test_a_clone_whose_view_is_returned_is_kept() -> None:
    assert after(lambda x: x.exp().clone().view(24)) == lines(
        "exp = exp(x_1)",
        "clone = clone(exp)",
        "view = view(clone, [24])",
        "return view",
    )


def test_a_clone_of_what_is_returned_is_kept() -> None:
    """The user may write over the returned tensor while the clone is saved for the backward."""

    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.exp()
        return y, y.clone().sin()

    assert after(fn) == lines(
        "exp = exp(x_1)",
        "clone = clone(exp)",
        "sin = sin(clone)",
        "return (exp, sin)",
    )


@pytest.mark.parametrize("view", [False, True])
def test_a_clone_of_the_users_memory_is_kept(view: bool) -> None:
    def fn(x: Tensor) -> Tensor:
        return (x.view(6, 4) if view else x).clone().sin()

    kept = ["view = view(x_1, [6, 4])", "clone = clone(view)"] if view else ["clone = clone(x_1)"]
    assert after(fn) == lines(*kept, "sin = sin(clone)", "return sin")


def test_a_clone_whose_source_is_changed_later_is_kept() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.exp()
        before = y.clone()
        y.add_(before)
        return before.sin() + y

    assert after(fn) == lines(
        "exp = exp(x_1)",
        "clone = clone(exp)",
        "add_ = add_(exp, clone)",
        "sin = sin(clone)",
        "add = add(sin, add_)",
        "return add",
    )


def test_a_clone_that_is_changed_through_a_view_is_kept() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x.exp()
        changed = y.clone()
        changed.view(24).neg_()
        return changed + y

    assert after(fn) == lines(
        "exp = exp(x_1)",
        "clone = clone(exp)",
        "view = view(clone, [24])",
        "neg_ = neg_(view)",
        "add = add(clone, exp)",
        "return add",
    )


def test_a_clone_of_a_constant_of_the_module_is_kept() -> None:
    graph = fx.Graph()
    constant = graph.get_attr("constant")
    clone = graph.call_function(torch.ops.aten.clone.default, (constant,))
    graph.output(graph.call_function(torch.ops.aten.sin.default, (clone,)))
    constant.meta["val"], clone.meta["val"] = X, X.clone()
    assert DropClones()(fx.GraphModule({"constant": X}, graph)) == 0


def test_counts_what_it_dropped() -> None:
    module = trace(lambda x: x.exp().clone().sin().clone().cos().clone(), X)
    assert DropClones()(module) == 2
    assert DropClones()(module) == 0
