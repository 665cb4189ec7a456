"""`roam layout`: packs the buffers of any program, without a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from roam.cli.exits import NO, UNKNOWN, exits
from roam.core.atomic_write import check_writable, write_file
from roam.core.errors import FileFormatError, OptionError

LAYOUT_EXITS = exits(
    f"{NO}: proven not to fit into --capacity",
    f"{UNKNOWN}: --seconds were not enough to tell whether it fits or is lowest",
)


def layout(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: id,lower,upper,size.")
    ],
    capacity: Annotated[
        str | None, typer.Option(help="Bytes to fit into, or 24MiB. Default: minimize the arena.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the CSV with offsets here.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to search at most.")] = 60.0,
) -> None:
    """Give every buffer of a CSV an offset, in the lowest arena or below a capacity.

    Columns `alignment` and `offset` (fixed) are read too.
    """
    started = time.monotonic()
    from roam.core.sizes import parse_size
    from roam.solvers.answer import Outcome
    from roam.solvers.layout.packing.instance import read_csv, write_csv
    from roam.solvers.layout.packing.pack import pack
    from roam.solvers.work import Work

    limit = None
    if capacity is not None:
        limit = parse_size(int(capacity) if capacity.isdecimal() else capacity)
    if out is not None:
        check_writable(out)
        if out.exists() and out.samefile(file):
            raise OptionError(f"{out} is the file of the buffers itself: name another output")
    try:
        instance = read_csv(_text(file))
    except FileFormatError as error:
        raise FileFormatError(f"{file}: {error}") from None
    work = Work.worth(seconds, patience=1.0)
    answer = pack(instance.rects, limit, work=work, names=instance.names)
    typer.echo(
        f"{answer.status}: {answer.value} bytes, none is below {answer.bound}; "
        f"{answer.found.method}, {answer.work} nodes, {time.monotonic() - started:.2f} s"
    )
    if out is not None and answer.status in (Outcome.OPTIMAL, Outcome.FEASIBLE, Outcome.FITS):
        write_file(out, write_csv(instance, answer.found.offsets))
    if answer.status is Outcome.DOES_NOT_FIT:
        raise typer.Exit(NO)
    if answer.status in (Outcome.UNKNOWN, Outcome.FEASIBLE):
        raise typer.Exit(UNKNOWN)


def _text(file: Path) -> str:
    """Returns the file's text, without the byte order mark that spreadsheets write."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"it is no text: {error}") from None
