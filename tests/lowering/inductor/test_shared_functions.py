"""Which nodes share a C++ function: all that may without lifting the peak."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import run_fw_bw_and_get_code

import roam
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.lowering.inductor.shared_functions import Functions, functions
from roam.planner import plan
from tests.helpers import fused, random


@dataclass
class Node:
    name: str

    def get_name(self) -> str:
        return self.name


def shared(
    ops: int, scratch: int = 0, sharing: Collection[int] | None = None, *, complete: bool = True
) -> Functions:
    """For a chain of ops that each make 100 bytes of the 100 before; the last one has scratch."""
    held = Kind.TEMPORARY, Home.EXTERNAL
    buffers = tuple(Buffer(f"b{i}", 100, *held) for i in range(ops))
    chain = tuple(
        Op(
            name=f"op{i}",
            reads=(i - 1,) if i else (),
            creates=(i,),
            scratch=scratch if i == ops - 1 else 0,
        )
        for i in range(ops)
    )
    problem = Problem("chain", buffers, chain)
    nodes: Any = [Node(f"op{i}") for i in range(ops)]
    who = frozenset(range(ops) if sharing is None else sharing)
    return functions(problem, plan(problem), nodes, who, complete=complete)


def ends(ops: int, scratch: int = 0, sharing: Collection[int] | None = None) -> set[str]:
    return set(shared(ops, scratch, sharing).ends)


def test_a_function_ends_where_it_would_lift_the_peak() -> None:
    assert ends(2) == set()
    assert ends(3) == {"op1"}  # op0's buffer must go before op2 makes another
    assert ends(6) == {"op1", "op2", "op3", "op4"}


def test_a_higher_peak_elsewhere_leaves_room() -> None:
    assert ends(6, scratch=99) == {"op1", "op2", "op3", "op4"}
    assert ends(6, scratch=100) == {"op2", "op4"}
    assert ends(6, scratch=1000) == {"op4"}  # what died before must not be there beside the scratch


def test_extern_kernels_end_functions_anyway() -> None:
    assert ends(4, sharing={0, 1, 3}) == set()


def test_what_shares_no_function_frees_at_once() -> None:
    """As on a GPU, where every kernel is called for itself."""
    assert shared(4, scratch=300, sharing=()).held == (100, 200, 200, 500)
    assert shared(4, scratch=300).held == (100, 200, 300, 500)
    assert shared(4, scratch=300, sharing=(), complete=False).most == (100, 200, 200, 500)


class Chain(nn.Module):
    """Reductions part the kernels; every one of them makes a tensor as large as the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(16))
        self.large = nn.Linear(16, 4096, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = (x * self.weight).softmax(0).cumsum(1)
        return x.sum() + self.large(x[:1]).sum()


class Biased(nn.Module):
    """Sums of biases may run beside other kernels, or between two products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x.sum()


@pytest.mark.slow
@pytest.mark.usefixtures("shared_kernels")
@pytest.mark.parametrize("made", [Chain, Biased])
def test_functions_are_shared_as_inductor_shares_them_where_there_is_room(
    made: type[nn.Module],
) -> None:
    def count(run: Any) -> int:
        _, code = run_fw_bw_and_get_code(lambda: run(random(64, 16)))
        return sum(len(re.findall(r"^ +cpp_fused\w*\(", text, re.MULTILINE)) for text in code)

    model = made()
    theirs = count(torch.compile(model))
    torch._dynamo.reset()
    ours = count(fused(model))
    [graph] = roam.report().graphs
    assert graph.problem is not None
    assert ours <= theirs < len(graph.problem.ops)
