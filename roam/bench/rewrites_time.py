"""`roam bench rewrites --time`: how long dW of a linear takes from a sample of its tokens.

    exact       dzᵀ x                            WTA-CRS       norms, sample, rows of x, then dzᵀ x

A pair is one of each, one after the other; CPU seconds of one thread, so that busy neighbours
count little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from roam.passes.rewrites.saved import Noise
from roam.passes.rewrites.wta_crs import FROM_SAMPLE, WTACRS

TOKENS, WIDTH, OUT = 4096, 768, 3072  # of an MLP's first linear in a small GPT-2
SHARES = (0.5, 0.3, 0.1)
PAIRS = 5


def time_bench(console: Console | None = None) -> dict[float, float]:
    """Prints and returns the median ratio of the times, by the share of tokens that is kept."""
    random = torch.Generator().manual_seed(0)
    x, dz = (torch.randn(TOKENS, n, generator=random) for n in (WIDTH, OUT))
    seed = torch.zeros(1, dtype=torch.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {share: _ratio(x, dz, WTACRS(keep=share), Noise(seed)) for share in SHARES}
    finally:
        torch.set_num_threads(threads)
    table = Table("tokens kept", "time of dW", title=f"dW, [{OUT}, {WIDTH}], of {TOKENS} tokens")
    for share, ratio in found.items():
        table.add_row(f"{share:.0%}", f"{ratio:.3f}")
    (console or Console()).print(table)
    return found


def _ratio(x: Tensor, dz: Tensor, rewrite: WTACRS, noise: Noise) -> float:
    def exact() -> None:
        torch.mm(dz.t(), x)

    def sampled() -> None:
        FROM_SAMPLE[1](rewrite.sample(x, noise), dz.t())

    for warm in (exact, sampled):
        warm()
    return median(_seconds(sampled) / _seconds(exact) for _ in range(PAIRS))


def _seconds(run: Callable[[], None]) -> float:
    begin = time.thread_time()
    run()
    return time.thread_time() - begin
