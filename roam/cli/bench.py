"""The benchmarks of the command line: `roam bench NAME`, each with `--json` and `--only`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(help="Measures roam against what it replaces.", no_args_is_help=True)

Json = Annotated[Path | None, typer.Option("--json", help="Write one JSON object a row here.")]
Only = Annotated[str | None, typer.Option(metavar="MODEL,...", help="Only these zoo models.")]


@contextmanager
def unknown_refused() -> Iterator[None]:
    """A context that turns the ValueError of an unknown name into an error about `--only`."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None


def zoo_names(only: str | None) -> list[str]:
    """Returns the zoo entries that `--only` names, so that a wrong name fails at once."""
    from roam.bench.tables import entry_names

    with unknown_refused():
        return entry_names(only, ())


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
    from roam.bench.adama import ALL, adama_bench

    zoo_names(only)
    _known(contender or (), ALL)
    which = contender or (ALL if every else None)
    adama_bench(
        only, json, micro_batches=micro_batches, rounds=rounds, memory=memory, contenders=which
    )


@bench.command()
def order(
    json: Json = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL,...", help="alexnet, or alexnet-b32; with --wide: layered, nasnet-a."
        ),
    ] = None,
    planning_seconds: Annotated[float, typer.Option(min=0.1, help="Deadline of a plan.")] = 20.0,
    program_seconds: Annotated[
        float, typer.Option(min=0.0, help="Deadline of one phase's integer program; 0: none runs.")
    ] = 10.0,
    wide: Annotated[
        bool, typer.Option("--wide", help="Random layered graphs and irregular networks.")
    ] = False,
    instances: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="With --wide: graphs in node-link JSON."),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(min=10, help="With --wide: ops of layered graphs; repeat for more."),
    ] = None,
    graphs: Annotated[int, typer.Option(min=1, help="With --wide: graphs of each size.")] = 10,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="With --wide: layered graphs without each search.")
    ] = False,
) -> None:
    """Compare the peaks of planned orders with other schedulers', and show how planning scales."""
    from roam.bench.ablation import ablation
    from roam.bench.order import order_bench, order_names
    from roam.bench.wide import WIDTHS, wide_bench, wide_graphs

    if wide:
        with unknown_refused():
            chosen = wide_graphs(only, instances, size or tuple(WIDTHS), graphs)
        if ablate:
            ablation(chosen, json, seconds=planning_seconds)
        else:
            wide_bench(chosen, json, seconds=planning_seconds)
        return

    with unknown_refused():
        order_names(only)
    order_bench(only, json, planning_seconds=planning_seconds, program_seconds=program_seconds)


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

    _known(contender or (), EVERY)
    names = contender or (EVERY if every else CONTENDERS)
    settings = Settings(steps=steps, seeds=seeds, rate=rate)
    convergence_bench(settings, json, picture, names=[*names])


@bench.command()
def compiled(
    json: Json = None,
    only: Only = None,
    contender: Annotated[
        list[str] | None, typer.Option(help="A row of the table; repeat for more. Default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed turns of each.")] = 7,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of processes to time.")] = 1,
    together: Annotated[bool, typer.Option(help="Time all contenders in one process.")] = False,
) -> None:
    """Compare memory, step and compile times with Inductor's, gradients kept and folded."""
    from roam.bench.compiled import COMPILED, compiled_bench
    from roam.bench.paired_runs import Timing

    zoo_names(only)
    chosen = contender or COMPILED
    _known(chosen, COMPILED)
    timing = Timing(rounds, pairs, together)
    compiled_bench(only, json, contenders=chosen, timing=timing)


def _known(contenders: Sequence[str], every: Iterable[str]) -> None:
    """Raises BadParameter for a contender that is none of `every`."""
    for name in contenders:
        if name not in (known := list(every)):
            message = f"{name!r} is not one of {', '.join(known)}"
            raise typer.BadParameter(message, param_hint="--contender")


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
    _known(contender or (), CONTENDERS)
    split_bench(only, json, contenders=contender or (), timing=Timing(rounds, pairs))


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
    from roam.bench.rewrites import model_names, rewrites_bench
    from roam.bench.rewrites_learning import fine_tuning_bench, learning_bench
    from roam.bench.rewrites_t5 import shape_names, t5_bench
    from roam.bench.rewrites_time import time_bench

    if time:
        time_bench()
        return
    names = only.split(",") if only else []
    if fine_tuning:
        fine_tuning_bench(json_file=json, picture=picture)
        return
    if t5:
        with unknown_refused():
            shape_names(names)
        t5_bench(names, json)
        return
    if learning:
        learning_bench(json_file=json)
        return
    with unknown_refused():
        model_names(names)
    rewrites_bench(names, json, lowering=lowering)


@bench.command()
def layout(
    json: Json = None,
    only: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Only instances whose name begins so.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A folder of NAME.CAPACITY.csv files."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Deadline of an instance.")] = 20.0,
) -> None:
    """Pack MiniMalloc's and random instances, and compare with the packers of compilers."""
    from roam.bench.layout import layout_bench

    layout_bench(json, only=only, data=data, seconds=seconds)


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
