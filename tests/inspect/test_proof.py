"""What is proven again of a bound that a file states."""

from __future__ import annotations

from msgspec.structs import replace

from roam.bench.layered import layered_graph
from roam.inspect.proof import prove
from roam.planner import Settings, plan
from tests.solvers.order.test_leaf_search import in_series


def test_leaves_prove_more_than_the_phase_as_a_whole() -> None:
    """71,660 bytes are what the best order takes. In the same time, the phase proves 63,530."""
    problem = in_series([layered_graph(100, width=0.5, seed=seed) for seed in (4, 5, 6)])
    stated = replace(plan(problem, Settings(seconds=0.5)), lower_bound=0, stated=71_660)
    assert 71_000 < prove(problem, stated, seconds=1.0).lower_bound <= 71_660
