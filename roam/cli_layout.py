"""`roam layout`: memory packing as a tool of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from roam.core.errors import FileFormatError


def layout(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: id,lower,upper,size.")
    ],
    capacity: Annotated[
        str | None, typer.Option(help="Does it fit? Bytes, or such as 24MiB. Default: minimize.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the CSV with offsets here.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Until when to search.")] = 60.0,
) -> None:
    """Give every buffer of a CSV an offset, in the lowest arena or below a capacity.

    Columns `alignment` and `offset` (fixed) are read too. Exit code 0: it fits, or the arena is
    proven to be lowest. 2: proven not to fit. 3: the time was not enough to tell.
    """
    from roam.core.sizes import parse_size
    from roam.solvers.packing.instance import check_packing, read_csv, write_csv
    from roam.solvers.packing.pack import Answer, pack

    limit = None
    if capacity is not None:
        limit = parse_size(int(capacity) if capacity.isdecimal() else capacity)
    instance = read_csv(_text(file))
    packing = pack(instance.rects, limit, deadline=time.monotonic() + seconds)
    check_packing(instance.rects, packing.offsets, instance.names)
    typer.echo(
        f"{packing.status}: {packing.height} bytes, none is below {packing.lower_bound}; "
        f"{packing.method}, {packing.nodes} nodes, {packing.seconds:.2f} s"
    )
    if out is not None and packing.status in (Answer.OPTIMAL, Answer.FEASIBLE, Answer.FITS):
        out.write_text(write_csv(instance, packing.offsets))
    if packing.status is Answer.DOES_NOT_FIT:
        raise typer.Exit(2)
    if packing.status in (Answer.UNKNOWN, Answer.FEASIBLE):
        raise typer.Exit(3)


def _text(file: Path) -> str:
    """Spreadsheets begin a CSV with a byte order mark."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{file} is no text: {error}") from None
