"""Measures contenders on a model: memory and compile times, and step times in turns with a base.

Each contender runs in its own process, with an empty cache of compiled code. To compare step times,
a contender and the base take turns, so that each ratio is of neighbouring steps. Two processes of
the same program differ by some percent for as long as they live. So the base also runs against
itself, which shows how exact a ratio is, and there may be several pairs of processes. With
`together` all contenders run in one process: the ratios are more exact, but they share memory that
one of them has taken from the machine.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from operator import truediv

from rich.console import Console, RenderableType

from roam.bench.children import Child, ContenderError, Result, process

WORKER = "roam.bench.compiled_worker"
BASE = "inductor"


@dataclass(frozen=True)
class Timing:
    """How step times are compared.

    Attributes:
        rounds: timed turns of every contender.
        pairs: how often each contender is compiled, and timed, in new processes.
        together: whether to time all contenders in one process, `pairs` times.
        update: whether a step ends with an update of the weights.
        base: the contender that all others take turns with.
    """

    rounds: int = 7
    pairs: int = 1
    together: bool = False
    update: bool = True
    base: str = BASE


def compare(name: str, contenders: Sequence[str], timing: Timing, console: Console) -> list[Result]:
    """Measures contenders on one entry, and shows on the console what runs.

    Returns:
        A row for each contender: what its process says (`compiled_worker`), with `ratios`, one a
        pair, and `seconds` and `system`, medians of steps over the pairs: elapsed, and processor
        seconds of the kernel. A contender that fails has its error in its row instead.

    Raises:
        ContenderError: a contender ran and failed when it was started again.
    """
    with console.status(f"{name}: memory and compile times") as status, ExitStack() as stack:
        caches = {c: stack.enter_context(tempfile.TemporaryDirectory()) for c in contenders}
        rows = [measured(name, c, timing, caches[c]) for c in contenders]
        runs = {row["contender"]: row for row in rows if "error" not in row}
        _compile_again(list(runs.values()), timing)
        groups = [list(runs)] if timing.together else [[c] for c in runs]
        for group in groups if timing.base in runs else ():
            status.update(f"{name}: {', '.join(group)} and {timing.base} in turns")
            pairs = [_turns(name, group, caches, timing) for _ in range(timing.pairs)]
            seconds = [[[turn["seconds"] for turn in turns] for turns in pair] for pair in pairs]
            for i, c in enumerate(group, 1):
                runs[c]["ratios"] = [
                    statistics.median(map(truediv, pair[i], pair[0])) for pair in seconds
                ]
                for key in ("seconds", "system"):
                    runs[c][key] = statistics.median(t[key] for pair in pairs for t in pair[i])
    return rows


def compare_each(
    names: Iterable[str],
    contenders: Sequence[str],
    timing: Timing,
    console: Console,
    table: Callable[[str, Sequence[Result]], RenderableType],
) -> Iterator[list[Result]]:
    """Measures one entry after another, prints its table and yields its rows.

    table: draws the table of an entry's rows. The other arguments: as of `compare`.
    """
    for name in names:
        rows = compare(name, contenders, timing, console)
        console.print(table(name, rows))
        yield rows


def measured(entry: str, contender: str, timing: Timing, cache: str | None = None) -> Result:
    """Returns what a contender's process says of memory and compile time, or its error.

    cache: Inductor's folder; None: one that is dropped again.
    """
    if cache is None:
        with tempfile.TemporaryDirectory() as folder:
            return measured(entry, contender, timing, folder)
    try:
        with process(WORKER, entry, contender, "--cache", cache, *_update(timing)) as child:
            return child.read()
    except ContenderError as error:
        return {"entry": entry, "contender": contender, "error": str(error)}


def _compile_again(rows: Sequence[Result], timing: Timing) -> None:
    """Compiles in new processes, one less than pairs, and puts the median seconds into the rows.

    Raises ContenderError.
    """
    seconds = [[row["compile_seconds"]] for row in rows]
    for _ in range(timing.pairs - 1):
        for row, found in zip(rows, seconds, strict=True):
            with (
                tempfile.TemporaryDirectory() as cache,
                _timed(row["entry"], timing, (row["contender"], cache)) as child,
            ):
                found.append(child.read()["compile_seconds"])
    for row, found in zip(rows, seconds, strict=True):
        row["compile_seconds"] = statistics.median(found)


def _turns(
    entry: str, contenders: Sequence[str], caches: dict[str, str], timing: Timing
) -> list[list[Result]]:
    """Returns what the base and each contender answer (`Trainer.turn`), one a round, in turns.

    All code is compiled before. The order changes from round to round, so that no contender always
    follows the same other one. Raises ContenderError.
    """
    names = [timing.base, *contenders]
    with ExitStack() as stack:
        ask: list[Callable[[], Result]] = []
        for run in [names] if timing.together else [[c] for c in names]:
            child = stack.enter_context(_timed(entry, timing, *((c, caches[c]) for c in run)))
            for i, _ in enumerate(run):
                child.read()  # warm, before the next one starts
                ask.append(partial(child.ask, str(i)))
        answers: list[list[Result]] = [[] for _ in ask]
        for k in range(timing.rounds):
            forwards = [(i + k // 2) % len(ask) for i in range(len(ask))]
            for i in forwards if k % 2 == 0 else reversed(forwards):
                answers[i].append(ask[i]())
    return answers


def _timed(
    entry: str, timing: Timing, *contenders: tuple[str, str]
) -> AbstractContextManager[Child]:
    """Starts a process that runs contenders, each with its cache of compiled code."""
    (first, cache), *others = contenders
    more = [word for c, folder in others for word in ("--contender", c, "--cache", folder)]
    more += ["--seconds", *_update(timing)]
    return process(WORKER, entry, first, "--cache", cache, *more)


def _update(timing: Timing) -> tuple[str, ...]:
    return () if timing.update else ("--no-update",)
