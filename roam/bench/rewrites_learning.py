"""`roam bench rewrites --learning`: what rewrites of saved tensors cost in what a model learns.

A small GPT-2 trains on real text from scratch, with the batches, schedule and first weights of the
exact gradients. No tensor is recomputed, so that every rewrite is applied wherever it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from roam.bench.convergence import Settings, curve, gpt2, loss_of
from roam.bench.convergence_run import Run
from roam.core.atomic_write import check_writable, write_file

EXACT = "exact"
SMALL = Settings(layers=2, heads=4, width=64, seq=64, batch=16, steps=150, warm_up=0.1)
CONTENDERS: dict[str, tuple[str, ...]] = {
    EXACT: (),
    "wta-crs 0.3": ("wta-crs",),
    "wta-crs 0.3, winners": ("wta-crs:sampler=winners",),
    "approx-bp + wta-crs 0.3": ("approx-bp", "wta-crs"),
    "quantized 4": ("quantized:bits=4",),
    "wta-crs 0.1": ("wta-crs:keep=0.1",),
    "quantized 8": ("quantized",),
    "approx-bp": ("approx-bp",),
    "velora": ("velora",),
    "rad 0.1": ("rad",),
}


def learning_bench(
    settings: Settings = SMALL, json_file: Path | None = None, *, console: Console | None = None
) -> list[Run]:
    """Trains every contender with every seed, and prints losses of validation text.

    Args:
        settings: of the model, the data and the loop.
        json_file: overwritten with one JSON object a run, each as soon as it is done.
        console: prints the table.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    if json_file is not None:
        check_writable(json_file)
    runs: list[Run] = []
    for name in CONTENDERS:
        torch.compiler.reset()  # or dynamo runs a function as it is after eight compilations
        model = gpt2(settings, activation="gelu")
        options: dict[str, Any] = {
            "rewrites": CONTENDERS[name],
            "recompute": False,
            "lowering": "aten",
        }
        compiled = torch.compile(model, backend="roam", options=options)
        for seed in range(settings.seeds):
            runs.append(train(settings, name, seed, model, compiled))
            if json_file is not None:
                write_file(json_file, b"".join(msgspec.json.encode(r) + b"\n" for r in runs))
    (console or Console()).print(table(runs))
    return runs


def train(settings: Settings, name: str, seed: int, model: nn.Module, compiled: Any) -> Run:
    """Trains a model once, from the weights of a seed. Returns the losses of validation text."""
    torch.manual_seed(seed)
    model.load_state_dict(gpt2(settings, activation="gelu").state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate)

    def backward(batch: Tensor) -> None:
        loss_of(compiled, batch).backward()

    steps, losses = curve(settings, seed, model, optimizer, backward)
    return Run(contender=name, seed=seed, steps=steps, losses=losses)


def table(runs: Sequence[Run]) -> Table:
    """Returns the final losses, and how much worse than the exact gradients' each is."""
    found = Table(title="validation loss at the end, nats a byte")
    for column in ("", "mean", "lowest", "highest", "worse by"):
        found.add_column(column, justify="right" if column else "left")
    base = {r.seed: r.final for r in runs if r.contender == EXACT}
    for name in dict.fromkeys(r.contender for r in runs):
        final = {r.seed: r.final for r in runs if r.contender == name}
        worse = mean(final[s] - base[s] for s in final)
        shown = (mean(final.values()), min(final.values()), max(final.values()))
        found.add_row(name, *(f"{n:.4f}" for n in shown), f"{worse:+.4f}")
    return found
