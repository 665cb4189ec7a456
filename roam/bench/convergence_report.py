"""Tables and picture of `roam bench convergence`: final losses, verdicts, rules side by side."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from rich.table import Table

from roam.bench.convergence_run import BASE, Run
from roam.core.atomic_write import write_file
from roam.core.errors import MissingExtraError, OptionError
from roam.optim import SlimRules

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which differs for every kind of colour vision
# (jfly.uni-koeln.de/color).
COLOURS = ("#222222", "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")


def by_contender(runs: Sequence[Run]) -> dict[str, list[Run]]:
    return {name: [r for r in runs if r.contender == name] for name in _names(runs)}


def spread(runs: Sequence[Run], base: str = BASE) -> tuple[float, float]:
    """Returns the least and the greatest final loss of the seeds of a contender."""
    finals = [r.final for r in runs if r.contender == base]
    return min(finals), max(finals)


def verdict(runs: Sequence[Run], name: str) -> str:
    """Compares a contender's final loss, the mean over the seeds, with AdamW's spread, in words."""
    low, high = spread(runs)
    found = mean(r.final for r in runs if r.contender == name)
    if found < low:
        return f"{low - found:.4f} below it (better)"
    if found > high:
        return f"{found - high:.4f} above it (worse)"
    return "within it"


def verdicts(runs: Sequence[Run]) -> list[str]:
    low, high = spread(runs)
    return [
        f"The spread of {BASE}'s seeds is {low:.4f} to {high:.4f}; of the others, the mean is:",
        *(f"  {name}: {verdict(runs, name)}" for name in _names(runs) if name != BASE),
    ]


def table(runs: Sequence[Run]) -> Table:
    """Returns the table of final validation losses: a column a seed, and the distance to AdamW."""
    seeds = sorted({r.seed for r in runs})
    found = Table(title="Final validation loss, nats a byte", title_justify="left")
    found.add_column("optimizer")
    for heading in (*(f"seed {seed}" for seed in seeds), "mean", f"to {BASE}, by seed"):
        found.add_column(heading, justify="right")
    base = [r.final for r in runs if r.contender == BASE]
    for name, own in by_contender(runs).items():
        finals = [r.final for r in own]
        apart = mean(a - b for a, b in zip(finals, base, strict=True))
        shown = "" if name == BASE else f"{apart:+.4f}"
        found.add_row(name, *(f"{x:.4f}" for x in finals), f"{mean(finals):.4f}", shown)
    return found


def rules_table(static: SlimRules, measured: SlimRules) -> Table:
    """Returns a table of the dimensions over which each matrix is averaged, static and measured."""
    found = Table(
        title=f"SlimAdam's rules: static save {static.saved:.2%} of the second moments, "
        f"measured {measured.saved:.2%}",
        title_justify="left",
    )
    for heading in ("parameter", "taken for", "static", "measured", "SNR by dimensions"):
        found.add_column(heading)
    for name, rule in measured.rules.items():
        if rule.snr:
            ratios = ", ".join(f"[{dims}] {ratio:.2f}" for dims, ratio in rule.snr.items())
            other = static.rules[name]
            found.add_row(name, other.role, str(list(other.dims)), str(list(rule.dims)), ratios)
    for column in found.columns:
        column.overflow = "fold"
    return found


def check_picture(path: Path) -> None:
    """Raises OptionError for a suffix that is neither .svg nor .png."""
    if path.suffix not in (".svg", ".png"):
        raise OptionError(f"a picture is a .svg or a .png file, not {path.name!r}")


def draw(runs: Sequence[Run], path: Path, base: str = BASE) -> None:
    """Draws the curves, means over the seeds, and every final loss beside the spread of one's.

    Raises OptionError for a wrong suffix, and MissingExtraError without matplotlib.
    """
    check_picture(path)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError(
            "pictures need matplotlib: pip install roam-planner[demo]"
        ) from None
    with matplotlib.rc_context({"axes.edgecolor": "#888888", "svg.hashsalt": "roam"}):
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        curves, finals = figure.subplots(1, 2, width_ratios=[3, 2])
        _draw_curves(curves, runs, base)
        _draw_finals(finals, runs, base)
        file = BytesIO()
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(file, format=path.suffix[1:], dpi=160, metadata=metadata)
    write_file(path, file.getvalue())


def _draw_curves(axes: Axes, runs: Sequence[Run], base: str) -> None:
    for (name, own), colour in zip(by_contender(runs).items(), COLOURS, strict=False):
        each = list(zip(*(r.losses for r in own), strict=True))
        steps = own[0].steps
        axes.plot(steps, [mean(losses) for losses in each], color=colour, label=name, lw=1.3)
        if name == base:
            axes.fill_between(
                steps, [min(x) for x in each], [max(x) for x in each], color=colour, alpha=0.15
            )
    axes.set_xlabel("steps")
    axes.set_ylabel("validation loss, nats a byte")
    axes.legend(frameon=False)


def _draw_finals(axes: Axes, runs: Sequence[Run], base: str) -> None:
    axes.axvspan(*spread(runs, base), color=COLOURS[0], alpha=0.12, lw=0)
    names = _names(runs)
    for i, (own, colour) in enumerate(zip(by_contender(runs).values(), COLOURS, strict=False)):
        axes.scatter([r.final for r in own], [i] * len(own), color=colour, s=18)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"final validation loss; band: {base}'s seeds")


def _names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(r.contender for r in runs))
