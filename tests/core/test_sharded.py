"""One of several ranks that share each parameter: gathers, reductions, and what they take."""

from __future__ import annotations

import pytest

from roam.core.build import ProblemBuilder
from roam.core.check import check
from roam.core.errors import OptionError
from roam.core.problem import Buffer, Home, Kind, Lane, Problem
from roam.core.sharded import Sharding, sharded, unit_of
from roam.planner import plan

LAYERS, WEIGHT, ACTIVATION = 3, 1000, 64


def step(*, folds: bool) -> Problem:
    """Layers in a row: each reads a weight and what the layer before has made."""
    build = ProblemBuilder()
    kept = [build.add_buffer("x", ACTIVATION, Kind.INPUT, Home.USER)]
    weights = []
    for i in range(LAYERS):
        name = f"layers.{i}.weight"
        weights.append(build.add_buffer(name, WEIGHT, Kind.PARAMETER, Home.USER))
    for i in range(LAYERS):
        kept.append(build.add_buffer(f"y{i}", ACTIVATION, Kind.SAVED, where=f"layers.{i}"))
        build.add_op(f"forward{i}", reads=(kept[i], weights[i]), creates=(kept[-1],))
    gradient = build.add_buffer("dy", ACTIVATION, Kind.TEMPORARY, Home.EXTERNAL)
    build.begin_phase(1, (gradient,))
    for i in reversed(range(LAYERS)):
        kind = Kind.RELEASED if folds else Kind.GRADIENT
        made = build.add_buffer(f"dw{i}", WEIGHT, kind, Home.EXTERNAL, where=f"layers.{i}")
        before, gradient = gradient, build.add_buffer(f"dx{i}", ACTIVATION)
        build.add_op(f"input{i}", reads=(before, weights[i]), creates=(gradient,))
        build.add_op(f"weight{i}", reads=(before, kept[i]), creates=(made,))
        if folds:
            build.add_fold(f"layers.{i}.weight", [made], (("sum", WEIGHT), ("code", WEIGHT // 4)))
    return build.problem("layers")


def named(problem: Problem, name: str) -> Buffer:
    return next(b for b in problem.buffers if b.name == name)


@pytest.mark.parametrize("folds", [False, True], ids=["kept", "folded"])
def test_a_layer_is_whole_while_it_runs_and_while_the_one_before_does(folds: bool) -> None:
    problem = sharded(step(folds=folds), Sharding(4))
    talk = [op.name for op in problem.ops if op.lane is Lane.COMMUNICATION]
    assert talk == [
        *(f"gather layers.{i}" for i in range(LAYERS)),
        *("gather layers.2 in the backward", "gather layers.1 in the backward", "reduce layers.2"),
        *("gather layers.0 in the backward", "reduce layers.1", "reduce layers.0"),
    ]
    found = plan(problem)
    check(problem, found)
    assert problem.persistent == ACTIVATION + LAYERS * 250 * (1 + folds) + folds * LAYERS * 63
    # two whole layers, a flat copy of one, and what is saved
    assert 3 * WEIGHT <= found.peak < 4 * WEIGHT
    for i in range(LAYERS):
        shard = named(problem, f"dw{i}, shard")
        assert (shard.size, shard.kind) == (250, Kind.RELEASED if folds else Kind.GRADIENT)
    for op in problem.ops:
        read = [problem.buffers[b] for b in op.reads]
        if op.name.startswith("fold"):
            assert [b.kind for b in read] == [Kind.RELEASED]
        elif op.lane is Lane.COMPUTE:
            assert not any(b.home is Home.USER and b.kind is Kind.PARAMETER for b in read)


def test_wide_shards() -> None:
    """In float32 of bfloat16: states of the parameter's size are as wide, and codes are not."""
    problem = sharded(step(folds=True), Sharding(4, widen=2))
    assert named(problem, "layers.0.weight").size == 500
    assert named(problem, "layers.0.weight.sum").size == 500
    assert named(problem, "layers.0.weight.code").size == 63
    assert named(problem, "dw0, shard").size == 500


def test_one_rank_has_whole_shards() -> None:
    alone = step(folds=True)
    assert sharded(alone, Sharding(1)).persistent == alone.persistent


@pytest.mark.parametrize(
    ("path", "unit"),
    [("model.layers.3.mlp.up.weight", "model.layers.3"), ("0.weight", "0"), ("lm_head.weight", "")],
)
def test_units(path: str, unit: str) -> None:
    assert unit_of(path) == unit


def test_no_ranks() -> None:
    with pytest.raises(OptionError, match="at least one rank"):
        Sharding(0)
