"""Benchmarks of training steps: memory and time, on one device and on several."""

from __future__ import annotations

from typing import Annotated

import typer

from roam.cli.bench.common import Json, Only, bench, unknown_refused, zoo_names


@bench.command()
def zoo(
    json: Json = None,
    only: Annotated[
        str | None, typer.Option(metavar="MODEL,...", help="Only these models, tiny or full size.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The full-size models too: minutes each.")
    ] = False,
) -> None:
    """Plan and train one step of every model in the zoo, and compare with eager and inductor."""
    from roam.bench.tables import zoo_bench

    zoo_names(only)
    rows = zoo_bench(only, json, full=full)
    if any("error" in result for row in rows for result in row.values()):
        raise typer.Exit(1)


@bench.command()
def step(
    json: Json = None,
    only: Annotated[str, typer.Option(metavar="MODEL", help="The model.")] = "gpt2-small",
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each contender.")] = 10,
) -> None:
    """Measure the memory of one model's step and loop, and step times in turns with eager's."""
    from roam.bench.steps import step_bench

    [name] = zoo_names(only)
    step_bench(name, json, rounds=rounds)


@bench.command()
def compiled(
    json: Json = None,
    only: Only = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(help='A row, also with a budget ("roam inductor 60%"); repeat for more.'),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed turns of each.")] = 7,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of processes to time.")] = 1,
    together: Annotated[bool, typer.Option(help="Time all contenders in one process.")] = False,
) -> None:
    """Compare memory, step and compile times with Inductor's, gradients kept and folded."""
    from roam.bench.compiled import COMPILED, compiled_bench
    from roam.bench.compilers import find
    from roam.bench.paired_runs import Timing

    zoo_names(only)
    chosen = contender or COMPILED
    with unknown_refused("--contender"):
        for name in chosen:
            find(name)
    timing = Timing(rounds, pairs, together)
    compiled_bench(only, json, contenders=chosen, timing=timing)


@bench.command()
def device(
    json: Json = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cuda. Default: CUDA if it is there, else the CPU.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="PART,...", help="Of memory, bits, budget, links, batch."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="After which no row runs.")] = 450.0,
) -> None:
    """Measure roam on a GPU beside eager and Inductor; on the CPU with tiny models.

    Exits with 1 if a row failed or is not as promised, and with 3 if the time was over too soon.
    """
    from roam.bench.device import device_bench

    with unknown_refused():
        rows = device_bench(device, json, only=only, seconds=seconds)
    if any("failed" in row for row in rows):
        raise typer.Exit(1)
    if any("late" in row for row in rows):
        raise typer.Exit(3)


@bench.command()
def parallel(
    json: Json = None,
    only: Only = None,
    ranks: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
    micro_batches: Annotated[int, typer.Option(min=1, help="Of a mini-batch, a rank.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Timed mini-batches of each.")] = 5,
) -> None:
    """Train on several ranks: AdamA that combines states, beside DDP and AdamW."""
    from roam.bench.parallel import parallel_bench

    zoo_names(only)
    parallel_bench(only, json, ranks=ranks, micro_batches=micro_batches, rounds=rounds)


@bench.command()
def wrappers(
    json: Json = None,
    only: Only = None,
    ranks: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
    steps: Annotated[int, typer.Option(min=2, help="Of each training.")] = 5,
    seconds: Annotated[float, typer.Option(min=1.0, help="Ends a training that hangs.")] = 300.0,
    kernels: Annotated[bool, typer.Option(help="Also with Inductor's kernels.")] = True,
) -> None:
    """Train twelve architectures under DDP and FSDP2: losses beside eager's and Inductor's."""
    from roam.bench.wrappers import WAYS, wrappers_bench

    zoo_names(only)
    ways = WAYS if kernels else [way for way in WAYS if not way.endswith("inductor")]
    rows = wrappers_bench(only, json, ranks=ranks, steps=steps, seconds=seconds, ways=ways)
    if any("error" in row for row in rows):
        raise typer.Exit(1)


@bench.command()
def sharded(
    json: Json = None,
    layers: Annotated[int, typer.Option(min=1, help="Of Llama-3-8B's 32.")] = 32,
    tokens: Annotated[int, typer.Option(min=1, help="Of a sequence.")] = 8192,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of a rank.")] = 1,
    checkpoint: Annotated[bool, typer.Option(help="Run each layer again.")] = True,
    ranks: Annotated[int, typer.Option(min=1, help="That share each parameter.")] = 8,
) -> None:
    """Plan one of 8 ranks that share Llama-3-8B (fully_shard), without weights."""
    from roam.bench.sharded import Setting, sharded_bench

    sharded_bench(json, setting=Setting(layers, tokens, batch, checkpoint), ranks=ranks)
