"""Draws a planned graph as SVG, for print and for readers that run no script.

One path a colour: a page holds a picture of a thousand rectangles in some 40 KB.

    MiB |  .......[ outside, stacked )....       above the dotted line: what has no address
        |     [ saved ------------ )
        +---------------------------------> op
    MiB |     ___/\\___                           held (grey), alive (line), bound (dashed)
        +---------------------------------> op
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape

from roam.core.lifetime import live_curve
from roam.core.plan import Block, Plan
from roam.core.problem import Problem
from roam.core.sizes import show_size
from roam.inspect.boxes import Box, boxes, gather
from roam.inspect.moment import FRAGMENTATION, SCRATCH, TOP, held_at, worst_moment
from roam.inspect.palette import BOUND, COLOURS, HELD, INK, LIVE
from roam.inspect.recomputed import runs_again

LARGEST = 10  # rows of the table
LEFT, BELOW, ABOVE = 70, 18, 12  # SVG units around the plot, for the scales
WIDTH, ARENA, CURVE = 1000, 380, 150  # SVG units: width of the plot, and heights of the two
TICKS = 6  # of a scale at most
BINARY = tuple(2**k for k in range(62))  # bytes are round in binary units
DECIMAL = tuple(k * 10**n for n in range(12) for k in (1, 2, 5))
EDGED = 3  # SVG units from which a rectangle gets an edge: thinner ones would be all edge
THIN = 0.3  # SVG units that a rectangle has at least


def still_picture(problem: Problem, plan: Plan) -> str:
    """Returns the arena and the curves of a graph as HTML, and a table of the peak."""
    found = boxes(problem, plan)
    drawn = gather(found)
    parts = (
        f"<figure><figcaption>{_caption(plan, found, drawn)}</figcaption>",
        _arena(problem, plan, drawn),
        _curve(problem, plan),
        _legend(found),
        "</figure>",
        _table(problem, plan),
    )
    return "\n".join(parts)


def _caption(plan: Plan, found: Sequence[Box], drawn: Sequence[Box]) -> str:
    parts = [f"{len(found):,} places in memory over {len(plan.order):,} ops, time to the right"]
    if len(drawn) < len(found):
        parts.append("small ones drawn together")
    if plan.blocks:
        every = len(_outlined(plan, _up(drawn))) == len(plan.blocks)
        parts.append(f"outlined: the {'' if every else 'taller '}blocks of the arena")
    if any(b.offset >= plan.arena for b in drawn):
        parts.append("above the dotted line: outside the arena, stacked here for the picture")
    return "; ".join(parts)


def _arena(problem: Problem, plan: Plan, drawn: Sequence[Box]) -> str:
    across, up = WIDTH / max(len(plan.order), 1), _up(drawn)
    lines = [*_rectangles(drawn, across, up)]
    outlines = "".join(
        _box(b.lower * across, (b.upper - b.lower) * across, b.offset * up, b.size * up, ARENA)
        for b in _outlined(plan, up)
    )
    lines.append(f'<path d="{outlines}" fill="none" stroke="{INK}"/>')
    if any(b.offset >= plan.arena for b in drawn):
        y = ARENA - plan.arena * up
        lines.append(f'<path d="M0 {y:.1f}H{WIDTH}" stroke="{INK}" stroke-dasharray="2 3"/>')
    lines += [_phase_line(problem, ARENA, across), *_scales(plan, ARENA, ARENA / up)]
    return _svg("roam-arena", "Where each tensor lies, op by op", ARENA, lines)


def _up(drawn: Sequence[Box]) -> float:
    """Returns the SVG units of height for one byte."""
    return ARENA / (max((b.offset + b.height for b in drawn), default=0) or 1)


def _outlined(plan: Plan, up: float) -> list[Block]:
    return [block for block in plan.blocks if block.size * up > 2 * EDGED]


def _rectangles(drawn: Sequence[Box], across: float, up: float) -> Iterator[str]:
    """Yields one path for all rectangles that look alike."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for b in drawn:
        width, height = max((b.upper - b.lower) * across, THIN), max(b.height * up, THIN)
        edge = ' stroke="#fff" stroke-width=".5"' if min(width, height) > EDGED else ""
        look = ' opacity=".6"' if b.count > 1 else edge
        place = _box(b.lower * across, width, b.offset * up, height, ARENA)
        alike[COLOURS[b.kind], look].append(place)
    for (colour, look), places in alike.items():
        yield f'<path d="{"".join(places)}" fill="{colour}"{look}/>'


def _box(x: float, width: float, low: float, height: float, above: int) -> str:
    """Returns the outline of a rectangle whose lower edge is `low` above the bottom."""
    return f"M{x:.1f} {above - low - height:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}z"


def _curve(problem: Problem, plan: Plan) -> str:
    held = plan.committed(problem)
    live = live_curve(problem, plan.order, plan.reuse)
    top = 1.12 * (max((*held, plan.lower_bound)) or 1)
    up = CURVE / top
    across = WIDTH / max(len(plan.order), 1)
    worst = worst_moment(problem, plan)
    bound, peak = CURVE - plan.lower_bound * up, CURVE - plan.peak * up
    op = problem.ops[plan.order[worst]].name if plan.order else ""
    x = (worst + 0.5) * across
    anchor = "end" if x > WIDTH / 2 else "start"
    lines = [
        f'<path d="{_steps(held, up)}V{CURVE}H0Z" fill="{HELD}"/>',
        f'<path d="{_steps(held, up)}" fill="none" stroke="{INK}"/>',
        f'<path d="{_steps(live, up)}" fill="none" stroke="{LIVE}"/>',
        f'<path d="M0 {bound:.1f}H{WIDTH}" stroke="{BOUND}" stroke-dasharray="6 4"/>',
        f'<circle cx="{x:.1f}" cy="{peak:.1f}" r="4" fill="{INK}"/>',
        f'<text x="{x:.1f}" y="{max(peak - 7, 10):.1f}" text-anchor="{anchor}">peak '
        f"{show_size(plan.peak)} at {escape(op)}</text>",
        _copies(problem, plan, across),
        _phase_line(problem, CURVE, across),
        *_scales(plan, CURVE, top),
    ]
    return _svg("roam-curve", "Bytes held and alive, op by op", CURVE, lines)


def _copies(problem: Problem, plan: Plan, across: float) -> str:
    """Returns a tick below the curve for each op that runs again, one a unit of width."""
    times = [t for t, i in enumerate(plan.order) if problem.ops[i].is_copy]
    if not times:
        return ""
    ticks = dict.fromkeys(int((t + 0.5) * across) for t in times)
    path = "".join(f"M{x} {CURVE}v-8" for x in ticks)
    title = runs_again(len(times))
    return f'<path d="{path}" stroke="{BOUND}" stroke-width="2"><title>{title}</title></path>'


def _steps(curve: Sequence[int], up: float) -> str:
    """Returns the curve as an SVG path. Of several ops in one unit of width, the highest counts."""
    columns = min(len(curve), WIDTH)
    parts = ["M0"]
    for c in range(columns):
        first, last = c * len(curve) // columns, (c + 1) * len(curve) // columns
        y = CURVE - max(curve[first:last]) * up
        end = last * WIDTH / len(curve)
        parts.append(f"{' ' if c == 0 else 'V'}{y:.1f}H{end:.1f}")
    return "".join(parts) if columns else f"M0 {CURVE}H{WIDTH}"


def _phase_line(problem: Problem, height: int, across: float) -> str:
    """Returns the line between forward and backward, "" if there is one phase only."""
    x = problem.spans[1].start * across if len(problem.spans) > 1 else 0
    path = f'<path d="M{x:.1f} 0V{height}" stroke="{INK}" stroke-dasharray="1 3"/>'
    return f'{path}<text x="{x + 4:.1f}" y="{height - 5}">backward</text>' if x else ""


def _scales(plan: Plan, height: int, top: float) -> Iterator[str]:
    """Yields the scale of bytes on the left, up to `top` bytes, and that of ops below."""
    for size in ticks(top, BINARY):
        y = height - size / top * height
        yield f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{show_size(size)}</text>'
        yield f'<path d="M-4 {y:.1f}h4" stroke="{INK}"/>'
    for t in ticks(len(plan.order), DECIMAL):
        x = t / max(len(plan.order), 1) * WIDTH
        text = f"op {t:,}" if t == 0 else f"{t:,}"
        yield f'<text x="{x:.1f}" y="{height + 14}" text-anchor="middle">{text}</text>'
    yield f'<path d="M0 0V{height}H{WIDTH}" fill="none" stroke="{INK}"/>'


def ticks(top: float, steps: Sequence[int]) -> list[int]:
    """Returns round numbers from 0 to `top`, at most TICKS apart from 0.

    steps: between two of them, round for what is counted: the smallest that is enough is taken.
    """
    step = next((s for s in steps if s * (TICKS + 1) > top), steps[-1])
    return list(range(0, int(top) + 1, step))


def _svg(name: str, title: str, height: int, lines: Sequence[str]) -> str:
    view = f"{-LEFT} {-ABOVE} {LEFT + WIDTH + ABOVE} {ABOVE + height + BELOW}"
    body = "\n".join(lines)
    return (
        f'<svg class="{name}" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{title}" '
        f'viewBox="{view}">\n{body}</svg>'
    )


def _legend(found: Sequence[Box]) -> str:
    here = [k for k in COLOURS if any(b.kind is k for b in found)]
    keys = [(COLOURS[k], k.value) for k in here]
    keys += [(HELD, "held"), (LIVE, "alive"), (BOUND, "lower bound")]
    return "".join(f'<i style="background:{colour}"></i>{name}' for colour, name in keys)


def _table(problem: Problem, plan: Plan) -> str:
    rows = "".join(
        f'<tr><td class="size">{show_size(h.size)}</td><td class="size">{h.size / plan.peak:.1%}'
        f"</td><td>{escape(h.name)}</td><td>{escape(h.kind)}</td><td>{escape(h.module or TOP)}</td>"
        f"<td>{escape(h.op)}</td><td>{_life(h.kind, h.lower, h.upper)}</td></tr>"
        for h in held_at(problem, plan, worst_moment(problem, plan))[:LARGEST]
    )
    head = "".join(f"<th>{h}</th>" for h in ("bytes", "share", "at the peak", "kind"))
    return (
        f"<table><thead><tr>{head}<th>module</th><th>made by op</th><th>alive</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _life(kind: str, lower: int, upper: int) -> str:
    return "" if kind in (SCRATCH, FRAGMENTATION) else f"[{lower:,}, {upper:,})"
