"""Makes the tables of `roam bench order`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from roam.bench.children import Result

# ROAM's mean savings against PyTorch (arXiv 2310.19295), with fragmentation and without
ROAM_WITH, ROAM_WITHOUT = 0.357, 0.160


def print_rows(rows: Sequence[Result], console: Console) -> None:
    models = [r for r in rows if "baselines" in r]
    synthetic = [r for r in rows if "resident" in r]
    if models:
        console.print(plan_table(models))
        console.print(baseline_table(models))
        console.print(verdict(models))
    if synthetic:
        console.print(scale_table(synthetic))


def plan_table(rows: Sequence[Result]) -> Table:
    """Returns the table of plans: one line a model and step, and the means at the end."""
    title = (
        "Transient MiB, and planning seconds. saved: against PyTorch's program order, and of all "
        "bytes,\nthe persistent included. reserved: the same by a simulated CUDA caching allocator"
    )
    shown = _table(
        title,
        ("model", "step", "ops", "buffers", "PyTorch", "planned", "bound", "gap", "status"),
        ("s", "ROAM's s", "saved", "of all", "PyTorch", "reserved", "saved", "of all"),
    )
    for row in rows:
        shown.add_row(
            row["entry"],
            row["step"],
            f"{row['ops']:,}",
            f"{row['buffers']:,}",
            _mib(row["pytorch"]),
            _mib(row["peak"]),
            _mib(row["bound"]),
            f"{row['gap']:.2%}",
            row["status"],
            f"{row['seconds']:.2f}",
            _or_dash(row["published_seconds"], "g"),
            f"{row['saved']:.1%}",
            f"{row['saved_of_all']:.1%}",
            _mib(row["pytorch_reserved"]),
            _mib(row["reserved"]),
            f"{row['reserved_saved']:.1%}",
            f"{row['reserved_saved_of_all']:.1%}",
        )
    shown.add_section()
    for step in dict.fromkeys(r["step"] for r in rows):
        own = [r for r in rows if r["step"] == step]
        optimal = sum(r["status"] == "OPTIMAL" for r in own)
        shown.add_row(
            "mean",
            step,
            *[""] * 5,
            f"{_mean(own, 'gap'):.2%}",
            f"{optimal}/{len(own)}",
            f"{_mean(own, 'seconds'):.2f}",
            "",
            f"{_mean(own, 'saved'):.1%}",
            f"{_mean(own, 'saved_of_all'):.1%}",
            "",
            "",
            f"{_mean(own, 'reserved_saved'):.1%}",
            f"{_mean(own, 'reserved_saved_of_all'):.1%}",
        )
    without, fragmented = f"{ROAM_WITHOUT:.1%}", f"{ROAM_WITH:.1%}"
    shown.add_row("ROAM, as published", *[""] * 10, without, *[""] * 3, fragmented)
    return shown


def baseline_table(rows: Sequence[Result]) -> Table:
    """Returns the table of every baseline's peak and seconds."""
    names = list(rows[0]["baselines"])
    title = "The orders' peaks in MiB, without a layout, in-place reuse granted to all; and seconds"
    shown = _table(title, ("model", "step", "planned"), names)
    for row in rows:
        cells = [f"{_mib(b['peak'])} {b['seconds']:5.2f}" for b in row["baselines"].values()]
        shown.add_row(row["entry"], row["step"], _mib(row["live_peak"]), *cells)
    shown.add_section()
    means = [
        f"{statistics.mean(r['baselines'][n]['peak'] / r['live_peak'] - 1 for r in rows):+.1%} "
        f"{statistics.mean(r['baselines'][n]['seconds'] for r in rows):5.2f}"
        for n in names
    ]
    shown.add_row("mean, against planned", "", "", *means)
    return shown


def verdict(rows: Sequence[Result]) -> str:
    """Compares the rows with the baselines and with their lower bounds, in words."""
    orders = [name for r in rows for name in _lower_than(r, "live_peak")]
    plans = [name for r in rows for name in _lower_than(r, "peak")]
    worst = max(rows, key=lambda r: r["gap"])
    return "\n".join(
        (
            f"orders above a baseline: {', '.join(orders) or 'none'}",
            f"peaks, layout included, above a baseline's order: {', '.join(plans) or 'none'}",
            f"proven gap: mean {_mean(rows, 'gap'):.2%}, worst {worst['gap']:.2%} "
            f"({worst['entry']} {worst['step']})",
            f"optimal: {sum(r['status'] == 'OPTIMAL' for r in rows)} of {len(rows)} rows",
        )
    )


def _lower_than(row: Result, key: str) -> list[str]:
    """Names the best baseline, if its order's peak is below the row's figure `key`."""
    best = min(row["baselines"], key=lambda name: row["baselines"][name]["peak"])
    less = row[key] - row["baselines"][best]["peak"]
    return [f"{row['entry']} {row['step']} ({best} by {_mib(less)} MiB)"] if less > 0 else []


def scale_table(rows: Sequence[Result]) -> Table:
    """Returns the table of synthetic graphs, one a line, each planned in its own process."""
    shown = _table(
        "Synthetic training graphs. MiB and seconds; resident: the most that the process had",
        ("graph", "ops", "buffers", "program", "planned", "bound", "gap", "status"),
        ("seconds", "µs an op", "resident"),
    )
    for row in rows:
        shown.add_row(
            row["entry"],
            f"{row['ops']:,}",
            f"{row['buffers']:,}",
            _mib(row["program"]),
            _mib(row["peak"]),
            _mib(row["bound"]),
            f"{row['gap']:.2%}",
            row["status"],
            f"{row['seconds']:.2f}",
            f"{row['seconds'] / row['ops'] * 1e6:.0f}",
            _mib(row["resident"]),
        )
    return shown


def _table(title: str, *columns: Sequence[str]) -> Table:
    shown = Table(title=title, title_justify="left")
    for name in (c for part in columns for c in part):
        words = name in ("model", "step", "graph", "status")
        shown.add_column(name, justify="left" if words else "right", no_wrap=True)
    return shown


def _mean(rows: Sequence[Result], key: str) -> float:
    return statistics.mean(r[key] for r in rows)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
