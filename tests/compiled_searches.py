"""Makes numba compile the searches once for two workers of xdist: each compiles half of them.

Otherwise both compile all of them, at the same time: half a minute for each.
"""

from __future__ import annotations

from roam.bench.budget import compile_search
from roam.bench.wide import compile_searches
from roam.solvers.jit import COMPILED
from roam.solvers.layout.packing.pack import pack
from tests.solvers.layout.rectangles import KNOTS, crowd


def compile_share(worker: str) -> None:
    """Compiles the share of a worker, "gw0" or "gw1", into numba's cache, where the other finds it.

    Both may begin their tests when they are done: what the other has not compiled yet by then is
    compiled twice.
    """
    if COMPILED and worker in SHARES:
        SHARES[worker]()


def _layouts_and_budgets() -> None:
    pack(crowd(KNOTS[0]))  # whose load is too little: ejection first, and then the search
    compile_search()


SHARES = {"gw0": compile_searches, "gw1": _layouts_and_budgets}
