"""The entry point of the command line, and `roam demo`.

A command imports what it needs when it runs, so that `roam --help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from roam.cli import plans
from roam.cli.bench import bench
from roam.cli.exits import NO, TROUBLE, UNKNOWN, exits
from roam.cli.layout import LAYOUT_EXITS, layout
from roam.cli.remat import remat
from roam.core.errors import RoamError


class _OneLine(TyperGroup):
    """Prints expected errors as one line on stderr, without a traceback, and exits with code 2."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except (RoamError, OSError) as error:
            if ctx.params["traceback"]:
                raise
            typer.echo(f"roam: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(TROUBLE) from None


app = typer.Typer(
    cls=_OneLine,
    help="A graph-level memory planner for PyTorch training.",
    epilog=exits(f"{NO}: the answer is no", f"{UNKNOWN}: the time was not enough to tell"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(bench, name="bench")
plans.register(app)
app.command(epilog=LAYOUT_EXITS)(layout)
app.command(epilog=exits())(remat)


@app.callback()
def _options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.")
    ] = False,
) -> None:
    """A graph-level memory planner for PyTorch training."""


@app.command(epilog=exits(f"{NO}: a contender failed"))
def demo(
    layers: Annotated[int, typer.Option(min=1, help="Transformer layers.")] = 4,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads a layer.")] = 8,
    width: Annotated[int, typer.Option(min=1, help="Width of the residual stream.")] = 256,
    seq: Annotated[int, typer.Option(min=2, help="Tokens a sequence.")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="Sequences a step.")] = 4,
    steps: Annotated[int, typer.Option(min=4, help="Steps to train.")] = 16,
    vocab: Annotated[int, typer.Option(min=256, help="Vocabulary; the text uses 256.")] = 256,
    dropout: Annotated[float, typer.Option(min=0.0, max=1.0, help="Dropout probability.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Random seed of weights and batches.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; torch's own choice by default.")
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(
            help="eager, a torch.compile backend, or roam aten; repeat for more. Default: all."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for plan and picture.")] = Path("roam-demo"),
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
        raise typer.Exit(NO)


def main() -> None:
    try:
        app()
    except Exception:  # Python would exit with 1, which is the answer "no"
        traceback.print_exc()
        sys.exit(TROUBLE)
