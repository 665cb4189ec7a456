"""Benchmarks of folded gradients: memory and time, and losses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roam.cli.bench.common import Json, Only, bench, known, zoo_names


@bench.command()
def adama(
    json: Json = None,
    only: Only = None,
    micro_batches: Annotated[int, typer.Option(min=1, help="Micro-batches a mini-batch.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Timed mini-batches of each.")] = 3,
    memory: Annotated[str, typer.Option(help="The memory that a model has to fit into.")] = "24GiB",
    every: Annotated[bool, typer.Option("--all", help="All optimizers of roam.optim.")] = False,
    contender: Annotated[
        list[str] | None, typer.Option(help="Which to run (lion roam); repeat for more.")
    ] = None,
) -> None:
    """Measure total memory with gradients folded (AdamA) and with gradients kept (AdamW)."""
    from roam.bench.adama import ALL, KNOWN, adama_bench

    zoo_names(only)
    known(contender or (), KNOWN)
    which = contender or (ALL if every else None)
    adama_bench(
        only, json, micro_batches=micro_batches, rounds=rounds, memory=memory, contenders=which
    )


@bench.command()
def convergence(
    json: Json = None,
    picture: Annotated[Path, typer.Option(help="Draw the curves here, .svg or .png.")] = Path(
        "convergence.svg"
    ),
    steps: Annotated[int, typer.Option(min=10, help="Steps of each run.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each contender.")] = 3,
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate.")] = 1e-3,
    every: Annotated[bool, typer.Option("--all", help="All optimizers of roam.optim.")] = False,
    contender: Annotated[
        list[str] | None, typer.Option(help="A row of the table; repeat for more.")
    ] = None,
) -> None:
    """Compare the validation losses of AdamA and SlimAdamA with AdamW's, on the demo's text."""
    from roam.bench.convergence import CONTENDERS, EVERY, Settings, convergence_bench

    known(contender or (), EVERY)
    names = contender or (EVERY if every else CONTENDERS)
    settings = Settings(steps=steps, seeds=seeds, rate=rate)
    convergence_bench(settings, json, picture, names=[*names])
