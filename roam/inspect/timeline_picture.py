"""Draws when the ops of a step run, its transfers, and the bytes that are alive.

copy_in  |             ▬▬▬ ▬▬▬▬           one bar a transfer
copy_out |   ▬▬▬▬▬▬▬▬▬
compute  | ▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬▬         red where an op waits for a transfer
bytes    |     ___/\\___  <- peak
         +-----------------------> seconds
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roam.core.errors import MissingExtraError
from roam.core.machine import MIB
from roam.core.problem import Lane
from roam.inspect.palette import BOUND, INK, LIVE
from roam.solvers.simulate.step import COPIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from roam.inspect.timeline import StepTimeline

LANES = {Lane.COMPUTE: "#C9D3DE", Lane.COPY_OUT: "#E69F00", Lane.COPY_IN: "#009E73"}
THICK = 0.7  # of a lane's height is its bar


def figure(step: StepTimeline) -> Figure:
    """Returns the picture. Raises MissingExtraError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError(
            "pictures need matplotlib: pip install roam-planner[demo]"
        ) from None
    drawn = Figure(figsize=(12, 5.5), layout="constrained")
    lanes, live = drawn.subplots(2, 1, sharex=True, height_ratios=[2, 3])
    _draw_lanes(lanes, step)
    _draw_live(live, step)
    for axes in (lanes, live):
        axes.set_xlim(0, step.timeline.seconds)
        axes.spines[["top", "right"]].set_visible(False)
        if step.backward is not None:
            axes.axvline(step.backward, color=INK, linewidth=0.8, linestyle=":")
    title = str(step).splitlines()[0].replace("$", r"\$")
    drawn.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    return drawn


def _draw_lanes(axes: Axes, step: StepTimeline) -> None:
    names = [Lane.COMPUTE, *COPIES]
    for row, lane in enumerate(names):
        bars = [(begin, end - begin) for begin, end in step.spans(lane)]
        edge = "none" if lane is Lane.COMPUTE else "white"
        axes.broken_barh(
            bars, (row - THICK / 2, THICK), facecolors=LANES[lane], edgecolors=edge, linewidth=0.4
        )
    stalls = [(t.end - t.stall, t.stall) for t in step.timeline.transfers if t.stall]
    axes.broken_barh(stalls, (-THICK / 2, THICK), facecolors=BOUND)
    axes.set_yticks(range(len(names)), [str(lane) for lane in names])


def _draw_live(axes: Axes, step: StepTimeline) -> None:
    found = step.timeline
    curve = [nbytes / MIB for nbytes in found.live.tolist()]
    edges = [*found.begin.tolist(), found.seconds]
    axes.fill_between(edges, [*curve, 0], step="post", color=LIVE, alpha=0.25, linewidth=0)
    axes.step(edges, [*curve, 0], where="post", color=LIVE, linewidth=0.9, label="alive")
    axes.axhline(found.peak / MIB, color=INK, linewidth=0.8, label="peak")
    if step.bound:
        how = {"linewidth": 1.1, "linestyle": (0, (5, 3)), "label": "bound without a stall"}
        axes.axhline(step.bound / MIB, color=BOUND, **how)  # type: ignore[arg-type]
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.set_ylim(0, 1.08 * max(found.peak / MIB, 1e-6))
    axes.set_ylabel("alive, MiB")
    axes.set_xlabel("seconds")
