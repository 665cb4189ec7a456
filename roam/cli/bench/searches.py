"""Benchmarks of searches: orders and layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roam.cli.bench.common import Json, bench, unknown_refused


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
