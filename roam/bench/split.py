"""`roam bench split`: what is large for a moment only, split into blocks and not.

    gpt2      GPT-2 small on 1024 tokens, batches of 1 and 4, gradients kept and folded
    head      linear + cross entropy alone, beside the ways in which others split it
    losses    the errors of more losses and heads, against float64
    groups    other ops whose middle is large

"roam unsplit" and "roam split" differ by the option `split` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console, RenderableType

from roam.bench import compiled, split_tables
from roam.bench.children import ContenderError, Result, process
from roam.bench.compilers import CONTENDERS
from roam.bench.paired_runs import BASE, Timing, compare_each
from roam.bench.split_losses import LOSSES, Sizes
from roam.bench.split_losses_worker import DRAWS, arguments
from roam.bench.tables import gather
from roam.core.atomic_write import check_writable

LOSSES_WORKER = "roam.bench.split_losses_worker"
SPLIT, UNSPLIT = "roam split", "roam unsplit"


@dataclass(frozen=True)
class Steps:
    """Steps whose memory and time are compared with Inductor's, in a table for each entry.

    Attributes:
        entries: of `split_zoo` or the zoo.
        contenders: rows of each table.
        update: whether a timed step ends with an update of the weights.
        table: draws the table of an entry's rows.
    """

    entries: tuple[str, ...]
    contenders: tuple[str, ...] = (BASE, UNSPLIT, SPLIT)
    update: bool = True
    table: Callable[[str, Sequence[Result]], RenderableType] = compiled.table

    def run(self, timing: Timing, console: Console) -> Iterator[list[Result]]:
        """Measures one entry after another, prints its table and yields its rows."""
        timing = replace(timing, update=self.update)
        return compare_each(self.entries, self.contenders, timing, console, self.table)


@dataclass(frozen=True)
class Losses:
    """Losses and heads whose errors are compared with Inductor's, in one table.

    Attributes:
        entries: of `split_losses`.
        contenders: compiled by each.
        sizes: of the inputs.
        draws: of the inputs, over which errors are averaged.
    """

    entries: tuple[str, ...] = tuple(LOSSES)
    contenders: tuple[str, ...] = (BASE, SPLIT)
    sizes: Sizes = field(default_factory=Sizes)
    draws: int = DRAWS

    def run(self, timing: Timing, console: Console) -> Iterator[list[Result]]:
        """Measures one entry after another, yields its rows, and prints one table at the end.

        timing: not used, because nothing is timed.
        """
        rows: list[Result] = []
        for entry in self.entries:
            with console.status(f"{entry}: errors against float64"):
                found = [self._row(entry, c) for c in self.contenders]
            rows += found
            yield found
        console.print(split_tables.losses(rows))

    def _row(self, entry: str, contender: str) -> Result:
        more = arguments(self.sizes, self.draws)
        try:
            with process(LOSSES_WORKER, entry, contender, *more) as child:
                return child.read()
        except ContenderError as error:
            return {"entry": entry, "contender": contender, "error": str(error)}


Part = Steps | Losses

PARTS: dict[str, Part] = {
    "gpt2": Steps(
        ("gpt2-small", "gpt2-small-b4"),
        (
            BASE,
            UNSPLIT,
            SPLIT,
            f"{SPLIT} recompute",
            f"{UNSPLIT} adama",
            f"{SPLIT} adama",
            f"{SPLIT} recompute adama",
        ),
    ),
    "head": Steps(
        ("head-float32", "head-bfloat16"),
        (
            BASE,
            "inductor chunked",
            "inductor chunked 16",
            "torch chunked",
            "torch chunked 8",
            "eager chunked 8",
            "eager chunked 16",
            UNSPLIT,
            SPLIT,
        ),
        update=False,
        table=split_tables.heads,
    ),
    "losses": Losses(),
    "groups": Steps(("llama-mlp-16k", "contrastive-1024", "unet-512")),
}


def split_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    contenders: Sequence[str] = (),
    timing: Timing | None = None,
    parts: Mapping[str, Part] = PARTS,
    console: Console | None = None,
) -> list[Result]:
    """Prints the tables, and returns a row for each entry and contender, with its part's name.

    A contender that fails leaves its error in its row.

    Args:
        only: names of parts, separated by commas; None: all.
        json_file: overwritten with one JSON object a row, whenever a table is done.
        contenders: only these, and Inductor; empty: all of a part.
        timing: how step times are compared.
        parts: those that `only` may name.
        console: prints the tables.

    Raises:
        ValueError: `only` or `contenders` has an unknown name.
    """
    chosen = {name: parts[name] for name in part_names(only, parts)}
    if unknown := set(contenders) - CONTENDERS.keys():
        raise ValueError(f"no contender {min(unknown)!r}, only: {', '.join(CONTENDERS)}")
    console = console or Console()
    if json_file is not None:
        check_writable(json_file)
    return gather(_run(chosen, contenders, timing or Timing(), console), json_file)


def _run(
    parts: Mapping[str, Part], contenders: Sequence[str], timing: Timing, console: Console
) -> Iterator[list[Result]]:
    """Yields the rows of one table after another, with the names of their parts."""
    for name, part in parts.items():
        if contenders:
            left = [c for c in part.contenders if c == BASE or c in contenders]
            part = replace(part, contenders=tuple(left))
        for found in part.run(timing, console):
            yield [{"part": name, **row} for row in found]


def part_names(only: str | None, parts: Mapping[str, Part] = PARTS) -> list[str]:
    """Returns the parts that `only` names, all without it. Raises ValueError."""
    names = list(parts) if only is None else [n.strip() for n in only.split(",")]
    for name in names:
        if name not in parts:
            raise ValueError(f"no part {name!r}, only: {', '.join(parts)}")
    return names
