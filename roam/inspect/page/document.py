"""Writes the page of one plan, or of two beside each other: one file, which loads nothing.

<main class="roam-plan">
  <header>    title
  .app        what the scripts of assets/ fill, from the data
  .still      the still picture: in print, and for readers that run no script
  data        columns of numbers (columns.py), compressed, base64
  d3          the modules of d3 that the scripts use (assets/d3/README.md)
  scripts     assets/*.js, in one scope
</main>
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from roam.core.problem import Kind
from roam.inspect.page.columns import columns, summary
from roam.inspect.page.still import still_picture
from roam.inspect.palette import COLOURS
from roam.inspect.record import GraphRecord

if TYPE_CHECKING:
    from roam.inspect.compare import PlanComparison
    from roam.inspect.step_plan import StepPlan

DRAWN = 2  # graphs of a step with a still picture, the largest: each takes some 40 KB
SCRIPTS = (
    "plan", "format", "colours", "layout", "window", "paint", "axes", "controls", "charts", "table",
    "tree", "details", "search", "explorer", "compare", "page",
)  # fmt: skip
FIGURES = 4  # the first lines of a printed comparison: total, peak, persistent, lower bound
FRAME_HEIGHT = 860  # CSS pixels of a page in a notebook: charts, and the first rows of the table
# what the browser is to refuse: any request, and scripts from elsewhere
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def step_page(step: StepPlan) -> str:
    """Returns the page of a step. Its graphs without a plan are a line each."""
    names = ", ".join(g.name for g in step.graphs[:DRAWN])
    data = {"steps": [_graphs(step)]}
    return _page(f"{names}: memory plan", str(step).splitlines()[0], data, _still(step))


def comparison_page(found: PlanComparison) -> str:
    """Returns the page of two steps beside each other."""
    changes = [
        {"sort": sort, "name": c.name, "before": c.before, "after": c.after}
        for sort, every in (("module", found.modules), ("kind", found.kinds))
        for c in every
    ]
    lines = str(found).splitlines()
    data = {
        "steps": [_graphs(step) for step in found.steps],
        "names": ["before", "after"],
        "changes": changes,
        "difference": [" ".join(line.split()) for line in lines[:FIGURES]],
    }
    still = f"<pre>{escape(chr(10).join(lines))}</pre>" + "".join(map(_still, found.steps))
    return _page("Two memory plans compared", "before and after", data, still)


def in_frame(page: str) -> str:
    """Returns the page as an element for a notebook, apart from its styles, scripts and keys."""
    return (
        f'<iframe srcdoc="{escape(page)}" title="memory plan" '
        f'style="width:100%;height:{FRAME_HEIGHT}px;border:0"></iframe>'
    )


def _graphs(step: StepPlan) -> list[dict[str, Any]]:
    planned = (g for g in step.graphs if g.plan is not None)
    return [columns(g) for g in sorted(planned, key=lambda g: -g.plan.peak if g.plan else 0)]


def _still(step: StepPlan) -> str:
    """Returns all graphs as HTML that needs no script: a line each, the largest with a picture."""
    by_peak = sorted(step.graphs, key=lambda g: -g.plan.peak if g.plan else 0)
    drawn = [g for g in by_peak if g.planned][:DRAWN]
    parts = []
    for graph in step.graphs:
        parts.append(f"<p>{escape(_line(graph))}</p>")
        if edits := graph.edit_lines():
            parts.append(f"<pre>{escape(chr(10).join(edits))}</pre>")
        if graph in drawn and graph.problem is not None and graph.plan is not None:
            parts.append(still_picture(*graph.plan.to_edited(graph.problem)))
    return "\n".join(parts)


def _line(graph: GraphRecord) -> str:
    if graph.plan is None:
        return f"{graph.name}: unplanned, {graph.reason}"
    return f"{graph.name}: {summary(graph.plan)}"


def _page(title: str, heading: str, data: dict[str, Any], still: str) -> str:
    known = {"kinds": list(Kind), "colours": COLOURS, **data}
    text = json.dumps(known, separators=(",", ":")).encode()
    packed = base64.b64encode(zlib.compress(text, 9)).decode()
    scripts = (
        ""
        if not any(data["steps"])
        else (
            f'<script type="text/plain">{packed}</script>\n'
            f"<script>{_read('d3/d3.min.js')}</script>\n<script>{_scripts(SCRIPTS)}</script>\n"
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title>"
        '<link rel="icon" href="data:,">'  # or a browser asks for one
        f"<style>{_read('page.css')}</style></head>\n"
        f'<body><main class="roam-plan"><header><h1>{escape(heading)}</h1></header>\n'
        f'<div class="app" hidden></div>\n<div class="still">{still}</div>\n{scripts}'
        "</main></body></html>\n"
    )


@cache
def _scripts(names: Sequence[str]) -> str:
    """Returns scripts in a scope of their own, which they share."""
    body = "\n".join(_read(f"{name}.js") for name in names)
    return f'(() => {{\n"use strict";\n{body}}})();'


@cache
def _read(name: str) -> str:
    return (files("roam.inspect.page") / "assets" / name).read_text(encoding="utf-8")
