"""Draws a plan: where every buffer lies, and what the step holds while each op runs.

address | .......[ outside, stacked )......         above the dotted line: what has no address
        |      [ saved ------------- )
        |  [ saved ----------------------- )        one rectangle a slot, outlined blocks
        +----------------------------------> time
bytes   |     ___/\\___  <- peak                     held: blocks, external, gradients, scratch
        +----------------------------------> time    against the live bytes and the lower bound
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from roam.core.atomic_write import write_file
from roam.core.errors import GraphMismatchError, MissingExtraError, OptionError
from roam.core.lifetime import live_curve, slots
from roam.core.machine import MIB
from roam.core.plan import Plan, stated_note
from roam.core.problem import Problem
from roam.inspect.boxes import boxes
from roam.inspect.palette import BOUND, COLOURS, INK, LAYERS, LIVE
from roam.inspect.recomputed import runs_again

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 400  # more rectangles or ops are pixels in an SVG: as shapes they would fill megabytes
EDGED = 1 / 250  # share of the picture's height and width from which a rectangle gets an edge


def picture(problem: Problem, plan: Plan, path: str | Path) -> None:
    """Draws `plan` into a file, SVG or PNG by the suffix of `path`.

    Raises MissingExtraError without matplotlib, OptionError for another suffix, and
    GraphMismatchError for a plan of another problem.
    """
    save(figure(problem, plan), Path(path))


def save(drawn: Figure, path: Path) -> None:
    """Writes a picture, SVG or PNG by the suffix of the path. Raises OptionError for another."""
    if path.suffix not in (".svg", ".png"):
        raise OptionError(f"a picture is a .svg or a .png file, not {path.name!r}")
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "roam"}):
        # no date, so that the same plan gives the same file
        metadata = {"Date": None} if path.suffix == ".svg" else None
        file = BytesIO()
        drawn.savefig(file, format=path.suffix[1:], dpi=160, metadata=metadata)
    write_file(path, file.getvalue())


def figure(problem: Problem, plan: Plan) -> Figure:
    """Returns the picture as a matplotlib figure. Raises what `picture` raises."""
    if plan.fingerprint != problem.fingerprint:
        raise GraphMismatchError(f"the plan is of {plan.problem!r}, not of {problem.name!r}")
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise MissingExtraError(
            "pictures need matplotlib: pip install roam-planner[demo]"
        ) from None
    with matplotlib.rc_context({"axes.edgecolor": "#888888"}):
        return _figure(problem, plan)


def layers(problem: Problem, plan: Plan) -> dict[str, list[int]]:
    """Returns the layers of the lower picture: bytes while each op runs.

    The layers sum to the committed curve.
    """
    change = {name: [0] * (len(plan.order) + 1) for name in LAYERS}
    held = [("arena blocks", b.lower, b.upper, b.size) for b in plan.blocks]
    for slot in slots(problem, plan.order, plan.reuse):
        if slot.buffers[0] not in plan.offsets:
            kept = problem.buffers[slot.buffers[-1]].kept
            name = "gradients, outputs" if kept else "external"
            held.append((name, slot.lower, slot.upper, slot.size))
    for name, lower, upper, size in held:
        change[name][lower] += size
        change[name][upper] -= size
    curves = {name: list(accumulate(steps))[:-1] for name, steps in change.items()}
    curves["scratch"] = [problem.ops[i].scratch for i in plan.order]
    return curves


def _figure(problem: Problem, plan: Plan) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    arena, held = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _draw_arena(arena, problem, plan)
    _draw_held(held, problem, plan)
    for axes in (arena, held):
        _draw_phases(axes, problem, plan)
        axes.set_xlim(0, max(len(plan.order), 1))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(plan), x=0.01, ha="left", fontsize=12, color=INK)
    return figure


def _title(plan: Plan) -> str:
    name = plan.problem.replace("$", r"\$")  # matplotlib would take it for mathematics
    return (
        f"{name}:  {len(plan.order):,} ops,  peak {plan.peak / MIB:,.1f} MiB,  "
        f"bound {plan.lower_bound / MIB:,.1f} MiB,  gap {plan.gap:.2%} "
        f"({plan.status}{stated_note(plan.stated)})"
    )


def _draw_arena(axes: Axes, problem: Problem, plan: Plan) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found = boxes(problem, plan)
    width = max(len(plan.order), 1)
    height = max((b.offset + b.height for b in found), default=0) or 1
    large = [b.height > EDGED * height and b.upper - b.lower > EDGED * width for b in found]
    for edged in (True, False):  # small ones last, or the edges of large ones would hide them
        some = [b for b, big in zip(found, large, strict=True) if big == edged]
        axes.add_collection(
            PolyCollection(
                [_corners(b.lower, b.upper, b.offset, b.height) for b in some],
                facecolors=[COLOURS[b.kind] for b in some],
                edgecolors="white" if edged else "none",
                linewidths=0.4 if edged else 0,
                rasterized=len(found) > MANY,
            )
        )
    blocks = [b for b in plan.blocks if b.size > 4 * EDGED * height]  # others would be all outline
    axes.add_collection(
        PolyCollection(
            [_corners(b.lower, b.upper, b.offset, b.size) for b in blocks],
            facecolors="none",
            edgecolors=INK,
            linewidths=0.8,
            clip_on=False,
        )
    )
    axes.set_ylim(0, height / MIB)
    axes.set_ylabel("address, MiB")
    keys: list[Artist] = [
        Patch(facecolor=COLOURS[k], label=k.value)
        for k in COLOURS
        if any(b.kind is k for b in found)
    ]
    if blocks:
        keys.append(Patch(facecolor="none", edgecolor=INK, label="block of the arena"))
    if height > plan.arena:
        axes.axhline(plan.arena / MIB, color=INK, linewidth=1, linestyle=":", clip_on=False)
        keys.append(Line2D([], [], color=INK, linestyle=":", label="above: outside, stacked"))
    _legend(axes, keys, f"{len(found):,} rectangles")


def _draw_held(axes: Axes, problem: Problem, plan: Plan) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    parts = {name: curve for name, curve in layers(problem, plan).items() if any(curve)}
    edges = range(len(plan.order) + 1)
    below = [0.0] * len(plan.order)
    for name, curve in parts.items():
        above = [low + now / MIB for low, now in zip(below, curve, strict=True)]
        axes.fill_between(
            edges,
            _stretch(below),
            _stretch(above),
            step="post",
            color=LAYERS[name],
            linewidth=0,
            rasterized=len(plan.order) > MANY,
        )
        below = above
    live = [now / MIB for now in live_curve(problem, plan.order, plan.reuse)]
    axes.step(edges, _stretch(below), where="post", color=INK, linewidth=1.0)
    axes.step(edges, _stretch(live), where="post", color=LIVE, linewidth=0.9)
    axes.axhline(plan.lower_bound / MIB, color=BOUND, linewidth=1.1, linestyle=(0, (5, 3)))
    peak = max(below, default=0.0)
    at = below.index(peak) if below else 0
    axes.plot([at + 0.5], [peak], marker="v", color=INK, markersize=7, clip_on=False)
    again = [t + 0.5 for t, i in enumerate(plan.order) if problem.ops[i].is_copy]
    how = {"color": BOUND, "marker": "|", "markersize": 9, "linestyle": "", "clip_on": False}
    axes.plot(again, [0.0] * len(again), **how)  # type: ignore[arg-type]
    axes.set_ylim(0, 1.08 * max(peak, plan.lower_bound / MIB, 1e-6))
    axes.set_ylabel("transient, MiB")
    axes.set_xlabel("time, ops")
    _legend(
        axes,
        [
            Line2D([], [], color=INK, marker="v", label=f"held, peak {peak:,.1f} MiB"),
            Line2D([], [], color=LIVE, label=f"live, peak {max(live, default=0):,.1f} MiB"),
            Line2D([], [], color=BOUND, linestyle="--", label="lower bound"),
            *([Line2D([], [], label=runs_again(len(again)), **how)] if again else []),  # type: ignore[arg-type]
            *(Patch(facecolor=LAYERS[name], label=name) for name in reversed(parts)),
        ],
        "held while each op runs",
    )


def _draw_phases(axes: Axes, problem: Problem, plan: Plan) -> None:
    for t in sorted({span.start for span in problem.spans} - {0, len(plan.order)}):
        axes.axvline(t, color=INK, linewidth=0.8, linestyle=":")
        if axes.get_subplotspec().is_first_row():  # type: ignore[union-attr]
            _label(axes, t, "forward ", "right")
            _label(axes, t, " backward", "left")


def _label(axes: Axes, t: int, text: str, side: str) -> None:
    """Writes above the axes, so that the text covers no rectangle."""
    place = axes.get_xaxis_transform()
    axes.text(t, 1.005, text, transform=place, ha=side, va="bottom", fontsize=9, color=INK)


def _legend(axes: Axes, keys: Sequence[Artist], title: str) -> None:
    axes.legend(
        handles=keys,
        title=title,
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )


def _corners(lower: int, upper: int, offset: int, size: int) -> list[tuple[float, float]]:
    low, high = offset / MIB, (offset + size) / MIB
    return [(lower, low), (upper, low), (upper, high), (lower, high)]


def _stretch(curve: Sequence[float]) -> list[float]:
    """Repeats the last value, so that the step of the last op has a right end."""
    return [*curve, curve[-1]] if curve else [0.0]
