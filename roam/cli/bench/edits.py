"""Benchmarks of edits: splits, budgets, transfers and rewrites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roam.cli.bench.common import Json, Only, bench, known, unknown_refused


@bench.command()
def split(
    json: Json = None,
    only: Annotated[
        str | None, typer.Option(metavar="PART,...", help="Of gpt2, head, losses, groups.")
    ] = None,
    contender: Annotated[
        list[str] | None, typer.Option(help="Only this one and inductor; repeat for more.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed turns of each.")] = 3,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of processes to time.")] = 1,
) -> None:
    """Compare memory, time and errors with what is large for a moment split and not."""
    from roam.bench.compilers import CONTENDERS
    from roam.bench.paired_runs import Timing
    from roam.bench.split import part_names, split_bench

    with unknown_refused():
        part_names(only)
    known(contender or (), CONTENDERS)
    split_bench(only, json, contenders=contender or (), timing=Timing(rounds, pairs))


@bench.command()
def budget(
    instances: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A folder of graphs, node-link JSON."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Without --instances: entries of the zoo to train.")
    ] = None,
    lowering: Annotated[str, typer.Option(help="Of the models: aten or inductor.")] = "aten",
    folded: Annotated[bool, typer.Option(help="Fold the models' gradients with AdamA.")] = False,
    json: Json = None,
    published: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help='Other figures: {"rl100": {"70": 2.2}}.'),
    ] = None,
    share: Annotated[
        list[int] | None,
        typer.Option(min=1, max=100, help="Percent of the peak without one; repeat for more."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Work of a row's search.")] = 6.0,
    rounds: Annotated[int, typer.Option(min=1, help="Timed turns of every model.")] = 7,
    stock: Annotated[
        bool, typer.Option("--stock", help="Compare the models with Inductor's own budgets.")
    ] = False,
) -> None:
    """Recompute within budgets: in graphs of other people, or in training steps."""
    from roam.bench import budget_stock
    from roam.bench.budget import SHARES, budget_bench
    from roam.bench.budget_steps import budget_steps
    from roam.bench.compilers import BUDGETS
    from roam.bench.paired_runs import Timing

    if stock:
        shares = share or budget_stock.SHARES
        budget_stock.budget_against_stock(model, json, shares=shares, timing=Timing(rounds))
        return
    if instances is None:
        budget_steps(
            model,
            json,
            lowering=lowering,
            folded=folded,
            shares=share or BUDGETS,
            timing=Timing(rounds=rounds),
        )
        return
    rows = budget_bench(
        instances, json, published=published, shares=share or SHARES, seconds=seconds
    )
    if any(row.get("verified") is False for row in rows):
        raise typer.Exit(1)


@bench.command()
def offload(
    json: Json = None,
    only: Only = None,
    pace: Annotated[
        list[int] | None, typer.Option(help="MB/s of a slower disk to try too; repeat for more.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed turns of every contender.")] = 7,
    shapes: Annotated[
        bool, typer.Option("--shapes", help="Simulate SSDTrain's nine configurations instead.")
    ] = False,
    rules: Annotated[
        bool, typer.Option("--rules", help="Simulate rules for what moves, beside the bound.")
    ] = False,
    machine: Annotated[
        str, typer.Option(metavar="NAME", help="With --shapes: the machine that is simulated.")
    ] = "a100-ssdtrain",
    states: Annotated[bool, typer.Option(help="Move the optimizer's states instead.")] = False,
    memory: Annotated[str, typer.Option(help="Of a process, with --states.")] = "10GiB",
    contender: Annotated[
        list[str] | None, typer.Option(help="Which to run, with --states; repeat for more.")
    ] = None,
) -> None:
    """Move saved tensors to a file (in TMPDIR), and compare with the same steps without."""
    from roam.bench.offload import offload_bench
    from roam.bench.offload_rules import rules_bench
    from roam.bench.offload_shapes import shapes_bench
    from roam.bench.paired_runs import Timing
    from roam.bench.states import CONTENDERS, states_bench

    if shapes:
        shapes_bench(only, json, machine=machine)
    elif rules:
        rules_bench(only, json)
    elif states:
        which = contender or CONTENDERS
        states_bench(only, json, memory=memory, rounds=rounds, contenders=which)
    else:
        offload_bench(only, json, paces=pace or (), timing=Timing(rounds))


@bench.command()
def rewrites(
    json: Json = None,
    only: Annotated[
        str | None, typer.Option(metavar="MODEL,...", help="Of gpt2, llama, t5, vit.")
    ] = None,
    lowering: Annotated[str, typer.Option(help="Whose kernels: aten or inductor.")] = "aten",
    learning: Annotated[
        bool, typer.Option("--learning", help="Train a small GPT-2 with each instead.")
    ] = False,
    t5: Annotated[
        bool, typer.Option("--t5", help="Plan T5-base and T5-large at a paper's sizes instead.")
    ] = False,
    fine_tuning: Annotated[
        bool, typer.Option("--fine-tuning", help="Train exactly, then further with each instead.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="A .svg or .png file for the curves of --fine-tuning.")
    ] = None,
    time: Annotated[
        bool, typer.Option("--time", help="Time the gradient of a weight of samples instead.")
    ] = False,
) -> None:
    """Count what a block saves with rewrites of saved tensors, or what they cost in learning."""
    from roam.bench.rewrites import MODELS, rewrites_bench
    from roam.bench.rewrites_learning import fine_tuning_bench, learning_bench
    from roam.bench.rewrites_t5 import SHAPES, t5_bench
    from roam.bench.rewrites_time import time_bench
    from roam.bench.tables import names_of

    names = only.split(",") if only else []
    if time:
        time_bench()
    elif fine_tuning:
        fine_tuning_bench(json_file=json, picture=picture)
    elif learning:
        learning_bench(json_file=json)
    else:
        with unknown_refused():  # at once, and no other ValueError
            names_of(names, SHAPES if t5 else MODELS)
        if t5:
            t5_bench(names, json)
        else:
            rewrites_bench(names, json, lowering=lowering)
