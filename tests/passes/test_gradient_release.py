"""Gradients that end in folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import torch
from torch import Tensor, fx

from roam.passes.geometry import value
from roam.passes.gradient_release import META, UPDATED, GradientRelease, Release, fold
from roam.passes.pipeline import run
from tests.passes.graphs import trace


def backward(w: Tensor, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x @ w: w's comes first, but w is read after it."""
    grad_w = x.t().mm(g)
    grad_x = g.mm(w.t())
    return grad_w, grad_x


def traced() -> tuple[fx.GraphModule, Tensor]:
    module = trace(backward, torch.randn(4, 3), torch.randn(5, 4), torch.randn(5, 3))
    w = next(iter(module.graph.nodes))
    return module, value(w)


def returned(module: fx.GraphModule) -> list[Any]:
    found: Any = module.graph.output_node().args[0]
    return list(found)


def order(module: fx.GraphModule) -> list[str]:
    return [n.name for n in module.graph.nodes if n.op == "call_function"]


def test_a_gradient_ends_in_its_fold_and_none_is_returned() -> None:
    module, w = traced()
    run((GradientRelease((Release(0, 0, w, (("m", 48),)),)),), module)
    assert returned(module)[0] is None
    assert returned(module)[1].name == "mm_1"
    [node] = module.graph.find_nodes(op="call_function", target=fold)
    assert node.args[1:] == (0, next(n for n in module.graph.nodes if n.name == "mm"), {})
    assert node.meta[META].state == (("m", 48),)


def test_a_fold_that_writes_the_parameter_comes_after_its_last_reader() -> None:
    module, w = traced()
    run((GradientRelease((Release(0, 0, w, ()),)),), module)
    assert order(module) == ["t", "mm", "t_1", "mm_1", "fold"]


def test_a_fold_of_state_alone_comes_at_once() -> None:
    module, w = traced()
    run((GradientRelease((Release(0, 0, w, (), writes_parameter=False),)),), module)
    assert order(module) == ["t", "mm", "fold", "t_1", "mm_1"]


def test_a_gradient_of_another_shape_is_left_alone() -> None:
    module, _ = traced()
    wrong = torch.empty(2, 2, device="meta")
    changed = GradientRelease((Release(0, 0, wrong, ()),))(module)
    assert changed == 0
    assert all(isinstance(n, fx.Node) for n in returned(module))


def test_absorb_gets_the_gradient_and_which_one_it_is() -> None:
    run_folds = Mock()
    fold(run_folds, 3, gradient := torch.tensor(2.0), {})
    run_folds.absorb_with.assert_called_once_with(3, gradient, {})


def release_in(step: Callable[..., Any]) -> fx.GraphModule:
    """The graph of a captured step of w, x and g, its first output the gradient of w."""
    module = trace(step, torch.randn(4, 3), torch.randn(5, 4), torch.randn(5, 3))
    w = value(next(iter(module.graph.nodes)))
    run((GradientRelease((Release(0, 0, w, ()),)),), module)
    return module


def test_an_update_is_the_fold_and_what_reads_it_reads_the_parameter() -> None:
    def step(w: Tensor, x: Tensor, g: Tensor) -> Any:
        gradient = x.t().mm(g)
        before = w.exp()
        updated = torch.ops.aten.copy(w, UPDATED(w, gradient, 0))
        after = updated.exp()
        w.copy_(updated)
        return gradient, before, after

    module = release_in(step)
    assert order(module) == ["t", "mm", "exp", "fold", "exp_1"]
    exps = module.graph.find_nodes(op="call_function", target=torch.ops.aten.exp.default)
    assert [n.args[0].name for n in exps] == ["w_1", "w_1"]


def test_what_the_program_wrote_before_the_update_and_after_it_is_written() -> None:
    def step(w: Tensor, x: Tensor, g: Tensor) -> Any:
        written = w.clamp(-1, 1)
        gradient = x.t().mm(g)
        w.copy_(UPDATED(written, gradient, 0).clamp(0, 1))
        return (gradient,)

    nodes = ["clamp", "t", "mm", "copy__default", "fold", "clamp_1", "copy_"]
    assert order(release_in(step)) == nodes


def test_an_update_that_an_op_must_come_before_and_cannot_stays() -> None:
    def step(w: Tensor, x: Tensor, g: Tensor) -> Any:
        gradient = x.t().mm(g)
        updated = UPDATED(w, gradient, 0)
        return gradient, updated + w

    module = release_in(step)
    assert order(module) == ["t", "mm", "updated", "add"]
    assert returned(module)[0].name == "mm"
