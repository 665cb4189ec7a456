"""`roam bench rewrites --time`: how long a linear's step takes with sampled tokens.

    step        z = x Wᵀ, with WTA-CRS the sampling of x, and dW

The input needs no gradient: the exact step is two products of equal size, so that no step of
samples takes less than half of it. CPU seconds of one thread: busy neighbours count little.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

TOKENS, WIDTH, OUT = 4096, 768, 3072  # of an MLP's first linear in a small GPT-2
SHARES = (0.5, 0.3, 0.1)
PAIRS = 5


def time_bench(console: Console | None = None) -> dict[float, float]:
    """Prints and returns the median ratio of the times, by the share of tokens that is kept."""
    x, dz = torch.randn(TOKENS, WIDTH), torch.randn(TOKENS, OUT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exact = _compiled([])
        found = {s: _ratio(exact, _compiled([f"wta-crs:keep={s}"]), x, dz) for s in SHARES}
    finally:
        torch.set_num_threads(threads)
    table = Table("tokens kept", "time of z and dW", title=f"{OUT} x {WIDTH}, {TOKENS} tokens")
    for share, ratio in found.items():
        table.add_row(f"{share:.0%}", f"{ratio:.3f}")
    (console or Console()).print(table)
    return found


def _compiled(rewrites: list[str]) -> Any:
    torch.compiler.reset()
    options: dict[str, Any] = {"lowering": "aten", "recompute": False, "rewrites": rewrites}
    made_in_the_graph = nn.Hardtanh(-9.0, 9.0)  # an input of the graph is kept whole by the user
    model = nn.Sequential(made_in_the_graph, nn.Linear(WIDTH, OUT))
    return torch.compile(model, backend="roam", options=options)


def _ratio(exact: Any, sampled: Any, x: Tensor, dz: Tensor) -> float:
    for warm in (exact, sampled):
        _seconds(warm, x, dz)
    return median(_seconds(sampled, x, dz) / _seconds(exact, x, dz) for _ in range(PAIRS))


def _seconds(run: Any, x: Tensor, dz: Tensor) -> float:
    """Returns what a forward and its backward take."""
    begin = time.thread_time()
    run(x).backward(dz)
    return time.thread_time() - begin
