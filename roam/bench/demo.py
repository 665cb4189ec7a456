"""`roam demo`: trains a small GPT-2 on real text, with roam and without, and compares.

Every contender trains the same model from the same seed on the same batches, each in a new process,
so that caches and memory of one do not affect the next.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from roam.bench.demo_worker import UNTIMED, Job, Message, Outcome, Settings, Step
from roam.core.atomic_write import write_file
from roam.core.errors import OptionError
from roam.core.machine import MIB

CONTENDERS = ("roam", "roam aten", "eager", "inductor")


def demo(
    settings: Settings,
    out: Path,
    contenders: Sequence[str] = CONTENDERS,
    console: Console | None = None,
) -> list[Outcome]:
    """Runs the contenders one after another, prints the table, and returns their outcomes.

    Writes into `out`: results.json, the log of each contender (NAME.log), and for "roam" its plan
    (plan.json, plan.html) and a picture of it (plan.svg, plan.png). Raises OptionError for
    settings that make no model.
    """
    _check(settings)
    console = console or Console()
    out.mkdir(parents=True, exist_ok=True)
    console.print(describe(settings))
    outcomes = []
    with _progress(console) as progress:
        for contender in contenders:
            task = progress.add_task(contender, total=settings.steps, figures="compiling")
            outcome = run(Job(settings, contender, str(out)), progress, task)
            if outcome.error:
                progress.update(task, figures="failed")
            outcomes.append(outcome)
    write_file(out / "results.json", msgspec.json.encode((settings, outcomes)))
    console.print(table(outcomes))
    for line in notes(outcomes, out):
        console.print(line, highlight=False)
    return outcomes


def run(job: Job, progress: Progress, task: TaskID) -> Outcome:
    """Runs one contender in a new process. Returns an outcome with an error if the process dies.

    The process has an empty cache of compiled code.
    """
    command = [sys.executable, "-m", "roam.bench.demo_worker"]
    log = Path(job.out) / f"{job.contender}.log"
    with (
        tempfile.TemporaryDirectory() as cache,
        log.open("wb") as stderr,
        subprocess.Popen(
            command,
            # If other programs use the same cores, threads that spin while they wait take the
            # cores from the threads they wait for, and a step takes five times as long.
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(msgspec.json.encode(job))
            worker.stdin.close()
            for line in worker.stdout:
                message = msgspec.json.decode(line, type=Message)
                if isinstance(message, Outcome):
                    return message
                progress.update(task, advance=1, figures=_figures(message, job.settings))
        except BaseException:
            worker.kill()  # an interrupted demo leaves no process behind
            raise
    error = f"the process ended with status {worker.returncode}: see {log}"
    return Outcome(contender=job.contender, error=error)


def describe(settings: Settings) -> str:
    s = settings
    return (
        f"GPT-2, {s.layers} layers of {s.width} with {s.heads} heads, vocabulary {s.vocab}; "
        f"{s.steps} steps of {s.batch} × {s.seq} tokens; AdamW, fp32"
    )


def table(outcomes: Iterable[Outcome]) -> Table:
    """Returns a table of one row a contender. `notes` says why one failed."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("contender", no_wrap=True)
    for heading in (
        "planned\nMiB",
        "fwd+bwd\nMiB",
        "step\nMiB",
        "process\nMiB",
        "first\nstep, s",
        "median\nstep, s",
        "final\nloss",
    ):
        found.add_column(heading, justify="right", no_wrap=True)
    for o in outcomes:
        found.add_row(o.contender, *_cells(o))
    return found


def notes(outcomes: Sequence[Outcome], out: Path) -> list[str]:
    """Returns the lines below the table: roam compared with eager, and the path of the plan."""
    lines = [
        "Peaks above parameters, optimizer state and batch: stated by the plan; measured over "
        "forward and backward; over the whole loop iteration. The process at its largest "
        "includes all of those, torch and the compiler."
    ]
    lines += [f"[red]{o.contender} failed:[/] {escape(o.error)}" for o in outcomes if o.error]
    by_name = {o.contender: o for o in outcomes if not o.error}
    roam = by_name.get("roam")
    for theirs in (o for n, o in by_name.items() if not n.startswith("roam")):
        same = [n for n, o in by_name.items() if o is not theirs and o.losses == theirs.losses]
        if same:
            lines.append(f"Every loss equals {theirs.contender}'s bit for bit: {', '.join(same)}.")
        if roam is not None:
            lines.append(
                f"roam takes {_against(roam.passes, theirs.passes)} than {theirs.contender} in "
                f"forward and backward, {_against(roam.whole, theirs.whole)} in the whole step."
            )
    if roam is not None:
        lines.append(f"The plan, its page (plan.html) and its picture are in {out}.")
    return lines


def _check(settings: Settings) -> None:
    if settings.width % settings.heads:
        raise OptionError(
            f"{settings.heads} heads do not share a width of {settings.width}: "
            "take a width that is a multiple of the heads"
        )
    if settings.steps <= UNTIMED:
        raise OptionError(
            f"{settings.steps} steps are too few: {UNTIMED} warm up and measure memory, "
            "so a time needs one more"
        )
    if settings.vocab < 256:
        raise OptionError(f"a vocabulary of {settings.vocab} does not hold the 256 bytes")


def _cells(outcome: Outcome) -> list[str]:
    if outcome.error:
        return ["failed", *[""] * 6]
    planned = "" if outcome.planned is None else f"{outcome.planned / MIB:,.1f}"
    return [
        planned,
        f"{outcome.passes / MIB:,.1f}",
        f"{outcome.whole / MIB:,.1f}",
        f"{outcome.resident / MIB:,.0f}",
        f"{outcome.first:.1f}",
        f"{outcome.seconds:.3f}",
        f"{outcome.losses[-1]:.6f}",
    ]


def _against(size: int, other: int) -> str:
    return f"{abs(size / other - 1):.1%} {'less' if size <= other else 'more'}"


def _figures(step: Step, settings: Settings) -> str:
    peak = "" if step.peak is None else f"  peak {step.peak / MIB:,.1f} MiB"
    return f"loss {step.loss:.4f}  {settings.tokens / step.seconds:,.0f} tokens/s{peak}"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
    )
