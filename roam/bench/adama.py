"""`roam bench adama`: compares total memory with gradients folded and kept, planned and measured.

    total = weights + optimizer state + transient peak of a mini-batch

A mini-batch is N micro-batches. With N = 1 there is one contender more, the optimizer in a hook of
PyTorch's tutorial, and AdamA runs in mode "release".
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from roam.bench.children import Child, ContenderError, Result, process
from roam.bench.fold_ways import FOLDING
from roam.bench.tables import entry_names, write_rows
from roam.bench.zoo import find, loss_of
from roam.core.atomic_write import check_writable
from roam.core.sizes import parse_size
from roam.inspect.step_plan import StepPlan
from roam.offline import plan
from roam.optim.folding import FoldingOptimizer

ENTRIES = ("gpt2-small-128", "bert-large", "gpt2-xl", "bert-4b")
WORKER = "roam.bench.folding_worker"
ALL = ("adamw eager", *(f"{way} roam" for way in FOLDING))
SEVERAL = ("adamw eager", "adamw inductor", "adama roam", "slim roam")
ONE = ("adamw eager", "hooks eager", "hooks inductor", "adama roam", "slim roam")
KNOWN = tuple(dict.fromkeys((*ALL, *SEVERAL, *ONE, *(f"{way} split" for way in FOLDING))))
BASE = "adamw eager"


def adama_bench(
    only: str | None = None,
    json_file: Path | None = None,
    *,
    micro_batches: int = 8,
    rounds: int = 3,
    memory: str = "24GiB",
    contenders: Sequence[str] | None = None,
    console: Console | None = None,
) -> list[Result]:
    """Prints a table for each model, and returns a row for each model and contender.

    A contender is measured if its planned total fits into `memory`, in a process that may take no
    more than that. Contenders that fit together are timed in turns.

    Raises ValueError for a name that the zoo does not have.
    """
    console = console or Console()
    names, limit = entry_names(only, ENTRIES), parse_size(memory)
    several = contenders or (ONE if micro_batches == 1 else SEVERAL)
    if json_file is not None:
        check_writable(json_file)
    rows: list[Result] = []
    for name in names:
        with console.status(f"{name}: planning"):
            planned = planned_totals(name, micro_batches, several)
        found = [_row(name, c, micro_batches, planned) for c in several]
        for row in (r for r in found if "error" not in r):
            with console.status(f"{name}: {row['contender']}"):
                row |= measure(row, limit)
        fitting = [r for r in found if "transient" in r]
        if sum(r["persistent"] + r["transient"] for r in fitting) < 0.85 * limit:
            with console.status(f"{name}: mini-batches in turns"):
                _time(fitting, rounds)
        rows += found
        if json_file is not None:
            write_rows(rows, json_file)
        console.print(table(name, found, planned))
    return rows


def planned_totals(name: str, micro_batches: int, contenders: Iterable[str]) -> Result:
    """Returns bytes of one model, planned on the meta device.

    Weights and the largest gradient; and the total of each `_step`. AdamW's is that of the best
    gradient accumulation, which adds each gradient to the sum as soon as it is made. An optimizer
    that cannot accumulate has none, if there are several micro-batches.
    """
    with torch.device("meta"):
        model = find(name).build()
    sizes = [p.nbytes for p in model.parameters() if p.requires_grad]
    found: Result = {
        "weights": sum(sizes),
        "parameters": sum(p.numel() for p in model.parameters()),
        "largest": max(sizes),
    }
    for step_name in dict.fromkeys(["adama", *map(_step, contenders)]):
        way, _, split = step_name.partition(" ")
        if way not in FOLDING or (micro_batches > 1 and not FOLDING[way].accumulates):
            continue
        with torch.device("meta"):
            model = find(name).build_in(FOLDING[way].dtype)
        optimizer = FOLDING[way].optimizer(model, micro_batches)
        step = _plan(name, model, optimizer, split=True if split else None)
        found[step_name] = step.total
        found[f"{step_name} persistent"] = step.total - step.peak
    found["adamw"] = found["adama"] + sum(sizes)
    return found


def _step(contender: str) -> str:
    """Returns a name of the step that is planned for a contender: several may have one step."""
    way, backend = contender.split()
    if way == "hooks":
        return "adama"
    return contender if backend == "split" else way


def _plan(
    name: str, model: torch.nn.Module, optimizer: FoldingOptimizer, *, split: bool | None
) -> StepPlan:
    batch: dict[str, Any] = dict(find(name).batch())
    how = {"split": split}
    return plan(model, loss=loss_of, optimizer=optimizer, lowering="aten", options=how, **batch)


def _row(name: str, contender: str, micro_batches: int, planned: Result) -> Result:
    known = _step(contender)
    row = {"entry": name, "contender": contender, "micro_batches": micro_batches}
    if known not in planned:
        return {**row, "error": "cannot accumulate"}
    kept = planned.get(f"{known} persistent")
    each = {} if kept is None else {"bytes_a_parameter": kept / planned["parameters"]}
    return {**row, "planned_total": planned[known], **each}


def measure(row: Result, memory: int) -> Result:
    """Runs a contender in a process with at most `memory` bytes. Returns its row, or its error."""
    try:
        with _start(row, "--limit", str(memory)) as child:
            ready = child.read()
            return {"resident": ready["resident"], **child.ask("measure")}
    except ContenderError as error:
        text = str(error)
        out_of_memory = "can't allocate memory" in text or "Cannot allocate" in text
        return {"error": "out of memory" if out_of_memory else text}


def _start(row: Result, *more: str) -> AbstractContextManager[Child]:
    count = ("--micro-batches", str(row["micro_batches"]))
    return process(WORKER, row["entry"], row["contender"], *count, *more)


def _time(rows: Sequence[Result], rounds: int) -> None:
    """Adds to each row the median ratio of its seconds to the first row's, a mini-batch each."""
    seconds: dict[str, list[float]] = {r["contender"]: [] for r in rows}
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for row in rows:
            children[row["contender"]] = stack.enter_context(_start(row))
            children[row["contender"]].read()
        for _ in range(rounds):
            for contender, child in children.items():
                seconds[contender].append(child.ask("step")["seconds"])
    for row in rows:
        own = seconds[row["contender"]]
        row["seconds"] = own
        if BASE in seconds:
            ratios = (s / b for s, b in zip(own, seconds[BASE], strict=True))
            row["ratio"] = statistics.median(ratios)


def table(name: str, rows: Sequence[Result], planned: Result) -> Table:
    """Returns the table of totals in MiB. Percentages are of the first row's total."""
    possible = (planned["weights"] - planned["largest"]) / planned["adamw"]
    title = (
        f"{name}, {rows[0]['micro_batches']} micro-batches: totals in MiB; "
        f"{possible:.1%} would be all gradients but the largest"
    )
    shown = Table(title=title, title_justify="left")
    for column in ("contender", "planned", "", "B/param", "measured", "", "resident", "time"):
        shown.add_column(column, justify="left" if column == "contender" else "right")
    base = _total(rows[0])
    for row in rows:
        total = _total(row)
        first = rows[0]["planned_total"]
        shown.add_row(
            row["contender"],
            _mib(row.get("planned_total")),
            f"{row['planned_total'] / first - 1:+.1%}" if "planned_total" in row else "",
            f"{row['bytes_a_parameter']:.2f}" if "bytes_a_parameter" in row else "",
            row.get("error", "") if total is None else _mib(total),
            "" if total is None or base is None else f"{total / base - 1:+.1%}",
            _mib(row.get("resident")),
            f"{row['ratio']:.3f}" if "ratio" in row else "",
        )
    return shown


def _total(row: Result) -> int | None:
    return row["persistent"] + row["transient"] if "transient" in row else None


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:,.0f}"
