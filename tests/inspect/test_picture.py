"""The arena picture: what it shows is what the plan says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from roam.core.errors import GraphMismatchError, MissingExtraError, OptionError
from roam.core.plan import Block, Plan, committed_curve, measure
from roam.core.problem import Buffer, Home, Kind, Op, Problem
from roam.inspect.picture import figure, layers, picture
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan

MIB = 2**20

#   time     0    1    2    3
#   saved    [---------)
#   hidden        [----)           op 2 writes `over` on it
#   over               [----)
#   outside       [----)           external
#   grad                    [----  the user's
STEP = Problem(
    "step",
    (
        Buffer("x", MIB, Kind.INPUT, Home.USER),
        Buffer("saved", 2 * MIB, Kind.SAVED),
        Buffer("hidden", MIB),
        Buffer("over", MIB),
        Buffer("outside", 3 * MIB, home=Home.EXTERNAL),
        Buffer("grad", MIB, Kind.GRADIENT, Home.EXTERNAL),
    ),
    (
        Op("a", reads=(0,), creates=(1,)),
        Op("b", reads=(0,), creates=(2, 4), scratch=512),
        Op("c", reads=(1, 2, 4), creates=(3,), over=((3, 2),), phase=1),
        Op("d", reads=(3,), creates=(5,), phase=1),
    ),
)
OFFSETS = {1: 0, 2: 2 * MIB, 3: 2 * MIB}
BLOCKS = (Block(0, 3 * MIB, 0, 4),)


@pytest.fixture
def plan() -> Plan:
    order, reuse = (0, 1, 2, 3), {3: 2}
    peak, live = measure(STEP, order, reuse, OFFSETS, BLOCKS)
    return Plan(
        STEP.name, STEP.fingerprint, order, OFFSETS, reuse, BLOCKS, peak, live, live, MIB, "hand"
    )


def test_the_layers_sum_to_the_committed_curve(plan: Plan) -> None:
    parts = layers(STEP, plan)
    held = committed_curve(STEP, plan.order, plan.reuse, plan.offsets, plan.blocks)
    assert [sum(at) for at in zip(*parts.values(), strict=True)] == held
    assert parts["arena blocks"] == [3 * MIB] * 4
    assert parts["external"] == [0, 3 * MIB, 3 * MIB, 0]
    assert parts["gradients, outputs"] == [0, 0, 0, MIB]
    assert parts["scratch"] == [0, 512, 0, 0]


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_writes_what_the_suffix_says(plan: Plan, tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"plan{suffix}"
    picture(STEP, plan, path)
    assert path.read_bytes().startswith(magic)


def test_the_same_plan_gives_the_same_file(plan: Plan, tmp_path: Path) -> None:
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    picture(STEP, plan, one)
    picture(STEP, plan, two)
    assert one.read_bytes() == two.read_bytes()


def test_an_svg_of_2000_buffers_stays_small(tmp_path: Path) -> None:
    n = 2000
    buffers = (Buffer("x", MIB, Kind.INPUT, Home.USER), *(Buffer(f"b{i}", MIB) for i in range(n)))
    ops = tuple(Op(f"op{i}", reads=(i,), creates=(i + 1,)) for i in range(n))
    problem = Problem("chain", buffers, ops)
    offsets = {i: i % 2 * MIB for i in range(1, n + 1)}
    blocks = (Block(0, 2 * MIB, 0, n),)
    peak, live = measure(problem, range(n), {}, offsets, blocks)
    order = tuple(range(n))
    plan = Plan("chain", problem.fingerprint, order, offsets, {}, blocks, peak, live, live, MIB)
    picture(problem, plan, tmp_path / "chain.svg")
    assert (tmp_path / "chain.svg").stat().st_size < 10**6


def test_a_step_without_an_arena(plan: Plan, tmp_path: Path) -> None:
    empty = Plan("step", STEP.fingerprint, plan.order, {}, {}, (), MIB, MIB, MIB, MIB)
    picture(STEP, empty, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_another_suffix_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'plan\.pdf'"):
        picture(STEP, plan, tmp_path / "plan.pdf")


def test_the_plan_of_another_problem_is_refused(plan: Plan, tmp_path: Path) -> None:
    other = Problem("other", STEP.buffers[:2], STEP.ops[:1])
    with pytest.raises(GraphMismatchError, match="'other'"):
        picture(other, plan, tmp_path / "plan.svg")


def test_without_matplotlib_it_says_what_to_install(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install roam-planner\[demo\]"):
        picture(STEP, plan, tmp_path / "plan.svg")


@pytest.mark.parametrize("name", ["c", "a~1"])
def test_ops_that_run_again_are_marked(plan: Plan, name: str) -> None:
    ops = tuple(replace(op, name=name if op.name == "c" else op.name) for op in STEP.ops)
    problem = replace(STEP, ops=ops)
    copy = name == "a~1"
    assert [op.is_copy for op in problem.ops] == [False, False, copy, False]
    found = replace(plan, fingerprint=problem.fingerprint)
    legends = [axes.get_legend() for axes in figure(problem, found).axes]
    labels = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    assert ("1 op runs again" in labels) == copy
    assert ("1 op runs again" in StepPlan((GraphRecord("s", problem, found),)).html) == copy
