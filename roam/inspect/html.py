"""Writes a step plan as HTML, for notebooks and for `roam show --html`.

The HTML loads nothing from the network. It has inline SVG and a short script, which shows the
buffer under the pointer in the line below the picture. Without the script the browser's own
tooltips show the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from roam.core.lifetime import live_curve
from roam.core.plan import Block, Plan, stated_note
from roam.core.problem import Problem
from roam.core.sizes import show_size
from roam.inspect.boxes import Box, boxes, gather
from roam.inspect.moment import FRAGMENTATION, SCRATCH, TOP, held_at, worst_moment
from roam.inspect.palette import BOUND, COLOURS, INK, LIVE
from roam.inspect.recomputed import runs_again
from roam.inspect.record import GraphRecord

if TYPE_CHECKING:
    from roam.inspect.step_plan import StepPlan

DRAWN = 2  # the number of graphs with a picture, the largest; the others are a line each
LARGEST = 10  # rows of the table
EDGED = 3  # SVG units from which a rectangle gets an edge: thinner ones would be all edge
WIDTH, ARENA, CURVE = 1000, 380, 150  # SVG units: width, and heights of the two pictures
SCRIPT = """
for (const root of document.querySelectorAll(".roam-plan:not([data-ready])")) {
  root.dataset.ready = "yes";
  root.addEventListener("pointerover", (event) => {
    const title = event.target.querySelector(":scope > title");
    const line = event.target.closest("figure")?.querySelector("output");
    if (title && line) line.textContent = title.textContent;
  });
}
"""
STYLE = f"""
.roam-plan {{ background: #fff; color: {INK}; font: 13px/1.5 system-ui, sans-serif; padding: 8px; }}
.roam-plan figure {{ margin: 4px 0; max-width: {WIDTH}px; }}
.roam-plan svg {{ display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }}
.roam-plan output {{ display: block; min-height: 3em; white-space: pre-line; }}
.roam-plan text {{ paint-order: stroke; stroke: #fff; stroke-width: 3px; fill: {INK}; }}
.roam-plan text {{ pointer-events: none; }}
.roam-plan rect:hover {{ stroke: {INK}; stroke-width: 2; }}
.roam-plan i {{ display: inline-block; width: 10px; height: 10px; margin: 0 4px 0 12px; }}
.roam-plan table {{ border-collapse: collapse; color: inherit; }}
.roam-plan th, .roam-plan td {{ padding: 1px 12px 1px 0; text-align: left; }}
.roam-plan td.size {{ text-align: right; font-variant-numeric: tabular-nums; }}
"""


def to_html(step: StepPlan) -> str:
    """Returns the plan as one HTML element, of less than 1 MB whatever the size of the step."""
    by_peak = sorted(step.graphs, key=lambda g: -g.plan.peak if g.plan else 0)
    drawn = [g for g in by_peak if g.planned][:DRAWN]
    parts = [f"<p><b>{escape(str(step).splitlines()[0])}</b></p>"]
    for graph in step.graphs:
        parts.append(f"<p>{escape(_summary(graph))}</p>")
        if edits := graph.edit_lines():
            parts.append(f"<pre>{escape(chr(10).join(edits))}</pre>")
        if graph in drawn and graph.problem is not None and graph.plan is not None:
            parts += _graph(*graph.plan.to_edited(graph.problem))
    body = "\n".join(parts)
    return (
        f'<div class="roam-plan"><style>{STYLE}</style>\n{body}\n<script>{SCRIPT}</script></div>\n'
    )


def to_page(step: StepPlan) -> str:
    """Returns the plan as a whole HTML file."""
    names = ", ".join(g.name for g in step.graphs[:DRAWN])
    head = f'<meta charset="utf-8"><title>{escape(names)}: memory plan</title>'
    icon = '<link rel="icon" href="data:,">'  # or a browser asks for one
    top = f'<!doctype html>\n<html lang="en"><head>{head}{icon}</head>'
    return f"{top}\n<body>{to_html(step)}</body></html>\n"


def _summary(graph: GraphRecord) -> str:
    plan = graph.plan
    if plan is None:
        return f"{graph.name}: unplanned, {graph.reason}"
    return (
        f"{graph.name}: {len(plan.order):,} ops, peak {show_size(plan.peak)}, lower bound "
        f"{show_size(plan.lower_bound)} ({plan.status}, gap {plan.gap:.2%}"
        f"{stated_note(plan.stated)}), fragmentation "
        f"{plan.fragmentation:.2%}, {plan.method}"
    )


def _graph(problem: Problem, plan: Plan) -> Iterator[str]:
    found = boxes(problem, plan)
    drawn = gather(found)
    yield f"<figure><figcaption>{_caption(plan, found, drawn)}</figcaption>"
    yield _arena(problem, plan, drawn)
    yield _curve(problem, plan)
    yield _legend(found)
    yield "<output>Point at a rectangle: its buffer, module, op, bytes and life.</output></figure>"
    yield _table(problem, plan)


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
    lines = [_rectangle(b, across, up) for b in drawn]
    for block in _outlined(plan, up):
        x, y = block.lower * across, ARENA - (block.offset + block.size) * up
        width, height = (block.upper - block.lower) * across, block.size * up
        lines.append(
            f'<path d="M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}z" fill="none" '
            f'stroke="{INK}" pointer-events="none"/>'
        )
    if any(b.offset >= plan.arena for b in drawn):
        y = ARENA - plan.arena * up
        lines.append(f'<path d="M0 {y:.1f}H{WIDTH}" stroke="{INK}" stroke-dasharray="2 3"/>')
    lines += [_phase_line(problem, plan, ARENA, across)]
    return _svg("roam-arena", ARENA, lines)


def _up(drawn: Sequence[Box]) -> float:
    """Returns the SVG units of height for one byte."""
    return ARENA / (max((b.offset + b.height for b in drawn), default=0) or 1)


def _outlined(plan: Plan, up: float) -> list[Block]:
    return [block for block in plan.blocks if block.size * up > 2 * EDGED]


def _rectangle(box: Box, across: float, up: float) -> str:
    x, y = box.lower * across, ARENA - (box.offset + box.height) * up
    width, height = (box.upper - box.lower) * across, box.height * up
    look = ' opacity=".6"' if box.count > 1 else ' stroke="#fff" stroke-width=".5"'
    look = look if box.count > 1 or min(width, height) > EDGED else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.3):.1f}" '
        f'height="{max(height, 0.3):.1f}" fill="{COLOURS[box.kind]}"{look}>'
        f"<title>{escape(_told(box))}</title></rect>"
    )


def _told(box: Box) -> str:
    if box.count > 1:
        first = box.items[0]
        return (
            f"{box.count:,} small buffers, {box.kind}, together {show_size(box.size)}\n"
            f"largest: {first.name}, {first.module or TOP}, {show_size(first.size)}"
        )
    links = [f"{i.name} (op {i.op}, {i.module or TOP})" for i in box.items]
    chain = " → ".join(links if len(links) < 5 else [*links[:2], "…", links[-1]])
    return f"{chain}\n{box.kind}, {show_size(box.size)}, alive [{box.lower}, {box.upper})"


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
        f'<path d="{_steps(held, up)}V{CURVE}H0Z" fill="#C9D3DE"/>',
        f'<path d="{_steps(held, up)}" fill="none" stroke="{INK}"/>',
        f'<path d="{_steps(live, up)}" fill="none" stroke="{LIVE}"/>',
        f'<path d="M0 {bound:.1f}H{WIDTH}" stroke="{BOUND}" stroke-dasharray="6 4"/>',
        f'<circle cx="{x:.1f}" cy="{peak:.1f}" r="4" fill="{INK}"><title>{escape(op)}, time '
        f"{worst}: {show_size(plan.peak)}</title></circle>",
        f'<text x="{x:.1f}" y="{max(peak - 7, 10):.1f}" text-anchor="{anchor}">peak '
        f"{show_size(plan.peak)} at {escape(op)}</text>",
        _copies(problem, plan, across),
        _phase_line(problem, plan, CURVE, across),
    ]
    return _svg("roam-curve", CURVE, lines)


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


def _phase_line(problem: Problem, plan: Plan, height: int, across: float) -> str:
    """Returns the line between forward and backward, "" if there is one phase only."""
    x = problem.spans[1].start * across if len(problem.spans) > 1 else 0
    path = f'<path d="M{x:.1f} 0V{height}" stroke="{INK}" stroke-dasharray="1 3"/>'
    return f'{path}<text x="{x + 4:.1f}" y="{height - 5}">backward</text>' if x else ""


def _svg(name: str, height: int, lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    return (
        f'<svg class="{name}" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {WIDTH} {height}">\n{body}</svg>'
    )


def _legend(found: Sequence[Box]) -> str:
    here = [k for k in COLOURS if any(b.kind is k for b in found)]
    keys = [(COLOURS[k], k.value) for k in here]
    keys += [("#C9D3DE", "held"), (LIVE, "alive"), (BOUND, "lower bound")]
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
