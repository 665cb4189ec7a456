"""What is computed once in place of several times, and what must not be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from roam.passes.pipeline import run
from roam.passes.rewrites.common_subexpressions import CommonSubexpressions
from tests.passes.graphs import printed, same_bits, trace

X = torch.randn(4, 6)


def after(fn: Callable[[Tensor], Tensor], *, tags: dict[str, str] | None = None) -> str:
    """The graph after the pass; checks that it computes what it did. tags: phases, by node."""
    module = trace(fn, X)
    for node in module.graph.nodes:
        node.meta["partitioner_tag"] = (tags or {}).get(node.name)
    run((CommonSubexpressions(),), module)
    torch.manual_seed(0)
    got = module(X.clone())
    torch.manual_seed(0)
    assert same_bits(got, fn(X.clone()))
    return printed(module)


def lines(*text: str) -> str:
    return "\n".join(text)


def test_the_same_call_twice() -> None:
    assert after(lambda x: x.exp().sin() * x.exp().cos()) == lines(
        "exp = exp(x_1)",
        "sin = sin(exp)",
        "cos = cos(exp)",
        "mul = mul(sin, cos)",
        "return mul",
    )


def test_chains_are_merged_from_their_beginning() -> None:
    assert after(lambda x: x.exp().sin() + x.exp().sin()) == lines(
        "exp = exp(x_1)",
        "sin = sin(exp)",
        "add = add(sin, sin)",
        "return add",
    )


def test_arguments_tell_calls_apart_by_their_types() -> None:
    """1, 1.0 and True are equal in Python, and not to an operator."""
    found = after(lambda x: (x + 1).sin() * (x + 1.0).cos())
    assert found.count("= add(") == 2


def test_random_numbers_are_drawn_each_time() -> None:
    assert after(lambda x: torch.rand_like(x) - torch.rand_like(x)).count("rand_like(") == 2


def test_memory_that_is_written_to_is_nobody_elses() -> None:
    def fn(x: Tensor) -> Tensor:
        first, second = x.exp(), x.exp()
        first.add_(1)
        return first.sin() * second.cos()

    found = after(fn)
    assert found.count("= exp(") == 2


def test_what_is_returned_is_the_users() -> None:
    """The user may write to it: its twin inside the graph must not change."""

    def fn(x: Tensor) -> Tensor:
        x.exp().sin()
        return x.exp()

    assert after(fn).endswith("return exp_1")


def test_forward_and_backward_keep_their_own() -> None:
    """Merged, the forward's would have to be saved for the backward."""
    tags = {"exp": "is_forward", "exp_1": "is_backward"}
    assert after(lambda x: x.exp().sin() * x.exp().cos(), tags=tags).count("= exp(") == 2
