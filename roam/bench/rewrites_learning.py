"""`roam bench rewrites --learning`: what rewrites of saved tensors cost in what a model learns.

A small GPT-2 trains on real text from scratch, with the batches, schedule and first weights of the
exact gradients. No tensor is recomputed, so that every rewrite is applied wherever it can be.

`--fine-tuning`: first it learns Python's sources with exact gradients, once. From there it learns
English prose, with each of the contenders.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from roam.bench.convergence import Settings, curve, gpt2, loss_of, validate
from roam.bench.convergence_run import Run
from roam.bench.tables import write_rows
from roam.core.atomic_write import check_writable

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
UNBIASED = "quantized:unbiased=True"
TUNED: dict[str, tuple[str, ...]] = {
    EXACT: (),
    "wta-crs 0.3": ("wta-crs",),
    "unbiased 8 + wta-crs 0.3": ("wta-crs:bits=8", UNBIASED),
    "unbiased 8": (UNBIASED,),
    "unbiased 4": (f"{UNBIASED},bits=4",),
    "approx-bp + wta-crs 0.3": ("approx-bp", "wta-crs"),
}
BEFORE = msgspec.structs.replace(SMALL, steps=600)
AFTER = msgspec.structs.replace(SMALL, steps=100, rate=3e-4, text="prose")


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
    found = _train_all(CONTENDERS, settings, first_weights(settings), json_file)
    (console or Console()).print(table(found))
    return found


def fine_tuning_bench(
    settings: Settings = AFTER,
    before: Settings = BEFORE,
    json_file: Path | None = None,
    picture: Path | None = None,
    *,
    console: Console | None = None,
) -> list[Run]:
    """Trains a model exactly, then further with every contender and seed, and prints losses.

    Args:
        settings: of the further training.
        before: of the first training; the model is the same.
        json_file: overwritten with one JSON object a run, each as soon as it is done.
        picture: a .svg or .png file for the curves.
        console: prints the table.

    Raises:
        OptionError: the picture has another suffix.
        MissingExtraError: transformers or matplotlib is not installed.
    """
    from roam.bench.convergence_report import check_picture, draw

    if picture is not None:
        check_picture(picture)
    console = console or Console()
    torch.manual_seed(0)
    model = gpt2(before, activation="gelu")
    run = train(before, EXACT, 0, model, model)
    console.print(f"after {before.steps} steps on {before.text}: {run.final:.4f} nats a byte")
    weights = copy.deepcopy(model.state_dict())
    console.print(f"of {settings.text}: {validate(model, settings):.4f}")
    found = _train_all(TUNED, settings, lambda seed: weights, json_file)
    console.print(table(found))
    if picture is not None:
        draw(found, picture, EXACT)
    return found


def _train_all(
    contenders: Mapping[str, tuple[str, ...]],
    settings: Settings,
    weights: Callable[[int], dict[str, Any]],
    json_file: Path | None,
) -> list[Run]:
    """Trains every contender with every seed. `weights` returns the first weights of a seed."""
    if json_file is not None:
        check_writable(json_file)
    runs: list[Run] = []
    for name, rewrites in contenders.items():
        torch.compiler.reset()  # or dynamo runs a function as it is after eight compilations
        model = gpt2(settings, activation="gelu")
        options: dict[str, Any] = {
            "rewrites": rewrites,
            "recompute": False,
            "lowering": "aten",
        }
        compiled = torch.compile(model, backend="roam", options=options)
        for seed in range(settings.seeds):
            model.load_state_dict(weights(seed))
            runs.append(train(settings, name, seed, model, compiled))
            if json_file is not None:
                write_rows(runs, json_file)
    return runs


def first_weights(settings: Settings) -> Callable[[int], dict[str, Any]]:
    """Returns a function of a seed that returns the weights of a model not trained yet."""

    def weights(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        return gpt2(settings, activation="gelu").state_dict()

    return weights


def train(settings: Settings, name: str, seed: int, model: nn.Module, compiled: Any) -> Run:
    """Trains a model once, from the weights that it has. Returns losses of validation text."""
    torch.manual_seed(seed)
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
