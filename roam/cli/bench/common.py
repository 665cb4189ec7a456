"""What the benchmarks' commands have in common."""

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
def unknown_refused(option: str = "--only") -> Iterator[None]:
    """A context that turns the ValueError of an unknown name into an error about an option."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def zoo_names(only: str | None) -> list[str]:
    """Returns the zoo entries that `--only` names, so that a wrong name fails at once."""
    from roam.bench.tables import entry_names

    with unknown_refused():
        return entry_names(only, ())


def known(contenders: Sequence[str], every: Iterable[str]) -> None:
    """Raises BadParameter for a contender that is none of `every`."""
    for name in contenders:
        if name not in (known := list(every)):
            message = f"{name!r} is not one of {', '.join(known)}"
            raise typer.BadParameter(message, param_hint="--contender")
