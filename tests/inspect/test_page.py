"""What goes into the page of a plan. What a browser makes of it: tests/browser/."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from itertools import accumulate, pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from roam.core.errors import OfflineError
from roam.core.lifetime import live_curve
from roam.core.origins import Origins
from roam.core.plan import Plan
from roam.inspect.boxes import Box, boxes, gather, stack
from roam.inspect.compare import compare
from roam.inspect.moment import FRAGMENTATION, held_at
from roam.inspect.page.columns import COPY, MAY_RUN_AGAIN
from roam.inspect.page.document import DRAWN
from roam.inspect.page.still import BINARY, DECIMAL, ticks
from roam.inspect.record import GraphRecord
from roam.inspect.report import Report
from roam.inspect.step_plan import StepPlan
from tests.inspect.steps import MIB, chain, step

SVG = "{http://www.w3.org/2000/svg}"
Columns = dict[str, Any]


def pictures(html: str) -> list[ElementTree.Element]:
    """Every SVG in the page, as a parser of XML reads it."""
    return [ElementTree.fromstring(x) for x in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def rectangles(picture: ElementTree.Element) -> int:
    """How many rectangles the filled paths of a picture have."""
    paths = picture.iter(f"{SVG}path")
    return sum(p.attrib["d"].count("z") for p in paths if p.attrib.get("fill", "none") != "none")


def data(html: str) -> Columns:
    """What the page's script unpacks."""
    [packed] = re.findall(r'<script type="text/plain">(.*?)</script>', html)
    found: Columns = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def graph(made: StepPlan) -> Columns:
    found: Columns = data(made.html)["steps"][0][0]
    return found


def lists(pair: tuple[list[int], list[int]]) -> list[list[int]]:
    ends = [0, *accumulate(pair[0])]
    return [pair[1][a:b] for a, b in pairwise(ends)]


class Table(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = tag == "td"
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "td"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1].append(data)


# ---- the data ----


def test_curves_are_those_of_the_plan() -> None:
    for made in (step(), chain(20)):
        [[problem, plan]] = made.planned
        found = graph(made)
        assert list(accumulate(found["held"])) == plan.committed(problem)
        assert list(accumulate(found["live"])) == live_curve(problem, plan.order, plan.reuse)
        assert (found["peak"], found["bound"]) == (plan.peak, plan.claimed_bound)


@pytest.mark.parametrize("made", [step(), chain(20)], ids=["step", "chain"])
def test_the_buffers_of_a_moment_are_those_that_are_held_then(made: StepPlan) -> None:
    [[problem, plan]] = made.planned
    shown = data(made.html)
    found, kinds = shown["steps"][0][0], set(shown["kinds"])
    buffers = found["buffers"]
    lower = list(accumulate(buffers["lower"]))
    for t in range(len(plan.order)):
        there = {
            buffers["name"][b]: buffers["size"][b]
            for b, life in enumerate(buffers["until"])
            if lower[b] <= t < lower[b] + life
        }
        held = held_at(problem, plan, t)
        lost = sum(h.size for h in held if h.kind == FRAGMENTATION)
        assert there == {h.name: h.size for h in held if h.kind in kinds}
        placed = [bool(buffers["placed"][s]) for s in accumulate(buffers["slot"])]
        inside = sum(there.get(n, 0) for n, p in zip(buffers["name"], placed, strict=False) if p)
        blocks = sum(size for _, size, first, end in found["blocks"] if first <= t < end)
        assert blocks - inside == lost


def test_what_a_buffer_is() -> None:
    buffers = graph(step())["buffers"]
    b = buffers["name"].index("over")
    slot = list(accumulate(buffers["slot"]))
    assert slot[b] == slot[buffers["name"].index("hidden")]
    assert buffers["address"][slot[b]] == 3 * MIB
    assert buffers["made"][b] == 2
    assert list(accumulate(lists(buffers["uses"])[b])) == [3]
    assert graph(step())["modules"][buffers["module"][b]] == "head"
    assert buffers["name"][len(buffers["until"]) :] == ["x", "head.weight", "head.weight.exp_avg"]


def test_what_an_op_is() -> None:
    [[problem, plan]] = step().planned
    again = replace(
        problem, ops=(*problem.ops[:2], replace(problem.ops[2], name="mm~1"), problem.ops[3])
    )
    made = StepPlan((GraphRecord("s", again, replace(plan, fingerprint=again.fingerprint)),))
    assert graph(made)["ops"]["is"] == [MAY_RUN_AGAIN] * 2 + [MAY_RUN_AGAIN | COPY, MAY_RUN_AGAIN]
    before = [
        [t - d for d in found] for t, found in enumerate(lists(graph(step())["ops"]["before"]))
    ]
    assert [set(found) for found in before] == [set(), set(), {0, 1}, {2}]


def test_where_things_come_from() -> None:
    [record] = step().graphs
    origins = Origins(
        {"mm": ("addmm", "gelu")},
        {"net.py:6, in forward: f(x)": ("mm",)},
        {"f32[2]": ("hidden",)},
        {"split": ("over", "hidden"), "rad": ("hidden",)},
    )
    told = StepPlan((GraphRecord("s", record.problem, record.plan, origins=origins),))
    for made in (told, StepPlan.from_json(told.to_json())):
        found = graph(made)
        ops, buffers = found["ops"], found["buffers"]
        assert [ops["kernels"][k] for k in ops["calls"]] == ["", "addmm, gelu", "", ""]
        assert ops["lines"][ops["line"][1]] == "net.py:6, in forward: f(x)"
        b = buffers["name"].index("hidden")
        assert buffers["forms"][buffers["form"][b]] == "f32[2]"
        assert [buffers["sentences"][i] for i in lists(buffers["offers"])[b]] == ["split", "rad"]


def test_a_large_step_stays_small() -> None:
    """GPT-2 XL has 14,000 ops and buffers with ATen's kernels; this has 10,000 of each."""
    html = chain(5000).html
    assert len(html.encode()) < 10**6
    arena, curve = pictures(html)
    assert 500 < rectangles(arena) < 1500
    assert curve is not None


# ---- the page ----


def test_a_notebook_shows_the_page_in_a_frame() -> None:
    shown = step()._repr_html_()
    [page] = re.findall(r'<iframe srcdoc="([^"]*)"', shown)
    assert unescape(page) == step().html
    assert Report(step().graphs, {})._repr_html_() == shown


def test_two_plans_on_one_page() -> None:
    found = compare(step(), step(saved=7))
    shown = data(found.html)
    assert [len(graphs) for graphs in shown["steps"]] == [1, 1]
    grew = {c["name"]: c["after"] - c["before"] for c in shown["changes"] if c["sort"] == "module"}
    assert grew == {c.name: c.grew for c in found.modules}
    assert "<iframe" in found._repr_html_()


def test_the_summary_comes_first() -> None:
    made = step()
    assert str(made).splitlines()[0] in made.html
    assert "peak 7.00 MiB, lower bound 6.00 MiB (FEASIBLE, gap 16.67%)" in made.html


def test_names_cannot_break_out() -> None:
    """Names of the user's are in the data, which is base64, and escaped in the still picture."""
    named = StepPlan((GraphRecord("</script><b>", *chain(3).planned[0]),))
    assert "</script><b>" not in named.html
    assert "saved<1>" not in named.html
    assert "saved<1>" in graph(named)["buffers"]["name"]


def test_nothing_comes_from_elsewhere() -> None:
    page = step().html
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://([\w.]*)", page)) == {"www.w3.org"}  # names of namespaces
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []


def test_graphs_without_a_plan_are_a_line_each() -> None:
    graphs = [*step().graphs, *chain(2).graphs, *chain(3).graphs]
    unplanned = GraphRecord("other", reason="op 'nonzero' <depends>")
    html = StepPlan((*graphs, unplanned)).html
    assert len(pictures(html)) == 2 * DRAWN
    assert len(data(html)["steps"][0]) == 3
    assert "other: unplanned, op &#x27;nonzero&#x27; &lt;depends&gt;" in html


def test_a_step_without_plans() -> None:
    empty = StepPlan((GraphRecord("g", reason="no ops"),))
    assert pictures(empty.html) == []
    with pytest.raises(OfflineError, match="no plan to draw"):
        empty.timeline()


# ---- the still picture ----


def test_every_place_in_memory_is_a_rectangle() -> None:
    arena, _ = pictures(step().html)
    assert rectangles(arena) == len(boxes(*step().planned[0])) == 4


def test_rectangles_lie_where_the_plan_has_them() -> None:
    found = {b.items[0].name: b for b in boxes(*step().planned[0])}
    assert {n: (b.lower, b.upper, b.offset // MIB, b.height // MIB) for n, b in found.items()} == {
        "saved": (0, 3, 0, 2),
        "hidden": (1, 4, 3, 1),
        "outside": (1, 3, 4, 3),  # above the arena's 4 MiB
        "grad": (3, 4, 4, 1),  # in the place that `outside` has left
    }


def test_what_is_stacked_does_not_overlap() -> None:
    [[problem, plan]] = chain(30).planned
    bare = boxes(problem, without_arena(plan))
    for i, a in enumerate(bare):
        for b in bare[:i]:
            apart = a.upper <= b.lower or b.upper <= a.lower
            assert apart or a.offset + a.height <= b.offset or b.offset + b.height <= a.offset
    assert stack([]) == []


def without_arena(plan: Plan) -> Plan:
    return Plan(plan.problem, plan.fingerprint, plan.order, {}, {}, (), 1, 1, 1, 0)


def test_the_largest_at_the_peak() -> None:
    html = step().html
    rows = Table(html[html.index("<tbody>") : html.index("</tbody>")]).rows
    assert [row[2] for row in rows] == ["outside", "saved", "hidden", "fragmentation", "mm"]
    assert rows[1] == ["2.00 MiB", "28.6%", "saved", "saved", "encoder", "embed", "[0, 3)"]


def test_small_buffers_are_gathered() -> None:
    found = boxes(*chain(200).planned[0])
    drawn = gather(found, single=50, together=40)
    assert len([b for b in drawn if b.count == 1]) >= 50
    assert 50 < len(drawn) <= 90
    assert sum(b.count for b in drawn) == len(found)
    assert sum(b.size for b in drawn) == sum(b.size for b in found)
    assert max(b.area for b in found) == max(b.area for b in drawn if b.count == 1)


def test_few_boxes_are_drawn_as_they_are() -> None:
    found = boxes(*step().planned[0])
    assert sorted(gather(found), key=id_of) == sorted(found, key=id_of)


def id_of(box: Box) -> str:
    return box.items[0].name


@pytest.mark.parametrize(
    ("top", "steps", "expected"),
    [
        (4, DECIMAL, [0, 1, 2, 3, 4]),
        (80, DECIMAL, [0, 20, 40, 60, 80]),
        (7 * MIB, BINARY, [k * 2 * MIB for k in range(4)]),
        (1450 * MIB, BINARY, [k * 256 * MIB for k in range(6)]),
        (0, BINARY, [0]),
    ],
)
def test_scales_are_round(top: int, steps: Sequence[int], expected: list[int]) -> None:
    assert ticks(top, steps) == expected


def test_timeline_is_a_figure_of_the_largest_graph() -> None:
    figure = StepPlan((*chain(2).graphs, *step().graphs)).timeline()
    assert str(figure.get_suptitle()).startswith("step:  4 ops,  peak 7.0 MiB")
