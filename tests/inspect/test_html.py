"""What a notebook shows of a plan."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from roam.core.errors import OfflineError
from roam.core.plan import Plan
from roam.inspect.boxes import Box, boxes, gather, stack
from roam.inspect.html import DRAWN, to_html, to_page
from roam.inspect.record import GraphRecord
from roam.inspect.report import Report
from roam.inspect.step_plan import StepPlan
from tests.inspect.steps import MIB, chain, step

SVG = "{http://www.w3.org/2000/svg}"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def pictures(html: str) -> list[ElementTree.Element]:
    """Every SVG in the page, as a parser of XML reads it."""
    return [ElementTree.fromstring(x) for x in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def titles(picture: ElementTree.Element) -> list[str]:
    return [str(r.findtext(f"{SVG}title")) for r in picture.iter(f"{SVG}rect")]


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


def test_a_notebook_shows_the_plan() -> None:
    assert step()._repr_html_() == to_html(step())


def test_so_does_a_report() -> None:
    made = step()
    assert Report(made.graphs, {})._repr_html_() == to_html(made)


def test_the_summary_comes_first() -> None:
    made = step()
    assert str(made).splitlines()[0] in to_html(made)
    assert "peak 7.00 MiB, lower bound 6.00 MiB (FEASIBLE, gap 16.67%)" in to_html(made)


def test_every_place_in_memory_is_a_rectangle_that_tells_its_name() -> None:
    arena, _ = pictures(to_html(step()))
    told = titles(arena)
    assert len(told) == len(boxes(*step().planned[0])) == 4
    assert "saved (op embed, encoder)\nsaved, 2.00 MiB, alive [0, 3)" in told
    assert any(t.startswith("hidden (op mm, head) → over (op mul, head)\n") for t in told)


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
    html = to_html(step())
    rows = Table(html[html.index("<tbody>") :]).rows
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


def test_a_large_step_stays_small() -> None:
    """GPT2-XL with folds has 2,920 ops and 1,906 places in memory; this has 10,000 of each."""
    html = to_html(chain(5000))
    assert len(html.encode()) < 10**6
    arena, curve = pictures(html)
    assert len(titles(arena)) < 1500
    assert curve is not None


def test_names_cannot_break_out() -> None:
    html = to_html(chain(3))
    assert "saved<1>" not in html
    assert any("saved<1> (op forward_1" in t for t in titles(pictures(html)[0]))


def test_many_graphs_are_a_line_each() -> None:
    graphs = [*step().graphs, *chain(2).graphs, *chain(3).graphs]
    unplanned = GraphRecord("other", reason="op 'nonzero' <depends>")
    html = to_html(StepPlan((*graphs, unplanned)))
    assert len(pictures(html)) == 2 * DRAWN
    assert "other: unplanned, op &#x27;nonzero&#x27; &lt;depends&gt;" in html


def test_nothing_comes_from_elsewhere() -> None:
    page = to_page(step()).replace("http://www.w3.org/2000/svg", "")
    assert "http" not in page
    assert "src=" not in page


def test_a_step_without_plans() -> None:
    empty = StepPlan((GraphRecord("g", reason="no ops"),))
    assert pictures(to_html(empty)) == []
    with pytest.raises(OfflineError, match="no plan to draw"):
        empty.timeline()


def test_timeline_is_a_figure_of_the_largest_graph() -> None:
    figure = StepPlan((*chain(2).graphs, *step().graphs)).timeline()
    assert str(figure.get_suptitle()).startswith("step:  4 ops,  peak 7.0 MiB")


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
def test_in_a_browser(tmp_path: Path) -> None:
    """No complaint in the console, and the line below the picture says what is pointed at."""
    probe = """<script>
    const rects = document.querySelectorAll(".roam-arena rect");
    rects[1].dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
    const said = document.querySelector("output").textContent;
    document.body.innerHTML = `<pre id="found">${rects.length}|${said}</pre>`;
    </script></body>"""
    page = tmp_path / "plan.html"
    page.write_text(to_page(step()).replace("</body>", probe), encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    [found] = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    count, said = found.split("|")
    told = titles(pictures(to_html(step()))[0])
    assert int(count) == len(told)
    assert said == told[1]
    assert "CONSOLE" not in done.stderr
