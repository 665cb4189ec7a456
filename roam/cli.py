"""The command line: `roam demo`, `roam bench zoo`, `roam show`.

What a command needs is imported when it runs, so that `roam --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from roam.core.errors import OptionError, RoamError

if TYPE_CHECKING:
    from rich.table import Table

    from roam.core.plan import Plan
    from roam.core.problem import Problem

MIB = 2**20


class _OneLine(TyperGroup):
    """Errors that roam expects are one line on stderr and exit code 1, without a traceback."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except (RoamError, OSError) as error:
            if ctx.params["traceback"]:
                raise
            typer.echo(f"roam: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_OneLine,
    help="A graph-level memory planner for PyTorch training.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
bench = typer.Typer(help="Measures roam against eager and inductor.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@app.callback()
def _options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.")
    ] = False,
) -> None:
    """A graph-level memory planner for PyTorch training."""


@app.command()
def demo(
    layers: Annotated[int, typer.Option(min=1, help="Transformer layers.")] = 4,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads a layer.")] = 8,
    width: Annotated[int, typer.Option(min=1, help="Width of the residual stream.")] = 256,
    seq: Annotated[int, typer.Option(min=2, help="Tokens a sequence.")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="Sequences a step.")] = 4,
    steps: Annotated[int, typer.Option(min=4, help="Steps to train.")] = 16,
    vocab: Annotated[int, typer.Option(min=256, help="Vocabulary; the text uses 256.")] = 256,
    dropout: Annotated[float, typer.Option(min=0.0, max=1.0, help="Dropout probability.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the weights and the batches.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; torch's own choice by default.")
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(help="eager or a torch.compile backend; again for more. Default: all three."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where plan and picture go.")] = Path("roam-demo"),
) -> None:
    """Train a small GPT-2 on the standard library's sources, with roam and without, and compare."""
    from roam.bench.demo import CONTENDERS
    from roam.bench.demo import demo as run
    from roam.bench.demo_worker import Settings

    settings = Settings(
        layers=layers,
        heads=heads,
        width=width,
        seq=seq,
        batch=batch,
        steps=steps,
        vocab=vocab,
        dropout=dropout,
        seed=seed,
        threads=threads,
    )
    outcomes = run(settings, out, contender or CONTENDERS)
    if any(o.error for o in outcomes):
        raise typer.Exit(1)


@bench.command()
def zoo(
    json: Annotated[
        Path | None, typer.Option("--json", help="Write one JSON object a model here.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="MODEL,...", help="These models, tiny or full size.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The full-size models too: minutes each.")
    ] = False,
) -> None:
    """Plan and train one step of every model in the zoo, and compare with eager and inductor."""
    from roam.bench.tables import entry_names, zoo_bench

    try:
        entry_names(only, full)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    rows = zoo_bench(only, json, full=full)
    if any("error" in result for row in rows for result in row.values()):
        raise typer.Exit(1)


@bench.command()
def step(
    json: Annotated[
        Path | None, typer.Option("--json", help="Write one JSON object a contender here.")
    ] = None,
    only: Annotated[str, typer.Option(metavar="MODEL", help="This model.")] = "gpt2-small",
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each contender.")] = 10,
) -> None:
    """Memory of one model's step and loop, and step times taken in turns with eager's."""
    from roam.bench.steps import step_bench
    from roam.bench.tables import entry_names

    try:
        [name] = entry_names(only, full=False)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    step_bench(name, json, rounds=rounds)


@bench.command()
def adama(
    json: Annotated[
        Path | None, typer.Option("--json", help="Write one JSON object a row here.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="MODEL,...", help="These models of the zoo.")
    ] = None,
    micro_batches: Annotated[int, typer.Option(min=1, help="Micro-batches a mini-batch.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Timed mini-batches of each.")] = 3,
    memory: Annotated[str, typer.Option(help="What a process may have.")] = "24GiB",
) -> None:
    """Total memory with gradients folded (AdamA) and with gradients kept (AdamW)."""
    from roam.bench.adama import adama_bench

    try:
        adama_bench(only, json, micro_batches=micro_batches, rounds=rounds, memory=memory)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None


@bench.command()
def compiled(
    json: Annotated[
        Path | None, typer.Option("--json", help="Write one JSON object a row here.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="MODEL,...", help="These models of the zoo.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each pair.")] = 7,
) -> None:
    """Memory, step and compile times beside Inductor's, with gradients kept and folded."""
    from roam.bench.compiled import compiled_bench

    try:
        compiled_bench(only, json, rounds=rounds)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None


@app.command()
def show(
    plan: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A plan file, JSON.")],
    problem: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Its problem file: checks the plan too."),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Print the whole plan, op by op. Needs --problem.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw it, .svg or .png. Needs --problem.")
    ] = None,
) -> None:
    """Summarise a plan file."""
    from rich.console import Console

    from roam.core.check import check
    from roam.core.files import problem_from_json
    from roam.core.plan import Plan
    from roam.core.text import plan_to_text

    found = problem_from_json(problem.read_bytes()) if problem is not None else None
    read = Plan.from_json(plan.read_bytes(), found)
    if found is None:
        if text or picture is not None:
            raise OptionError("--text and --picture need the problem too: add --problem FILE")
    else:
        check(found, read)
        if picture is not None:
            from roam.inspect.picture import picture as draw

            draw(found, read, picture)
    if text and found is not None:
        typer.echo(plan_to_text(read, found), nl=False)
    else:
        Console().print(_summary(read, found))


def _summary(plan: Plan, problem: Problem | None) -> Table:
    from rich import box
    from rich.table import Table

    found = Table(
        title=plan.problem, title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False
    )
    found.add_column(no_wrap=True)
    found.add_column()
    for name, value in (
        ("ops", f"{len(plan.order):,}"),
        ("peak", f"{_mib(plan.peak)}, {plan.status}"),
        ("lower bound", f"{_mib(plan.lower_bound)}, gap {plan.gap:.2%}"),
        ("live peak", f"{_mib(plan.live_peak)}, fragmentation {plan.fragmentation:.2%}"),
        ("arena", _mib(plan.arena)),
        ("its blocks", f"{len(plan.blocks):,}"),
        ("its buffers", f"{len(plan.offsets):,}"),
        ("persistent", _mib(plan.persistent)),
        ("total", _mib(plan.total)),
        ("method", f"{plan.method}, {plan.seconds:.2f} s"),
        ("fingerprint", plan.fingerprint),
    ):
        found.add_row(name, value)
    if problem is not None:
        found.add_row("at the peak", _worst_moment(problem, plan))
    return found


def _worst_moment(problem: Problem, plan: Plan) -> str:
    """Which op is running when the most is held, and what that is."""
    from roam.inspect.picture import layers

    parts = layers(problem, plan)
    held = [sum(at) for at in zip(*parts.values(), strict=True)]
    if not held:
        return "no ops"
    t = held.index(max(held))
    op = problem.ops[plan.order[t]]
    where = f" in {op.where}" if op.where else ""
    return f"op {t}, {op.name}{where}: " + ", ".join(
        f"{name} {_mib(curve[t])}" for name, curve in parts.items() if curve[t]
    )


def _mib(size: int) -> str:
    return f"{size / MIB:,.2f} MiB"


def main() -> None:
    app()
