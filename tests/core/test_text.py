from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.errors import FileFormatError, GraphMismatchError, ReadBeforeWriteError
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.text import parse_plan, parse_problem, plan_to_text, problem_to_text
from tests.core.strategies import (
    GOLDEN,
    GRAPHS,
    graph,
    orders,
    plans,
    problems,
    renamed_problems,
    stacked_plan,
)


@pytest.mark.parametrize("name", GRAPHS)
def test_golden_problems(name: str) -> None:
    text = (GOLDEN / f"{name}.txt").read_text()
    assert problem_to_text(parse_problem(text)) == re.sub("(?m)^#.*\n", "", text)


def test_golden_plan() -> None:
    problem = graph("training_step")
    text = (GOLDEN / "training_step.plan.txt").read_text()
    plan = stacked_plan(problem, (0, 1, 2, 3, 4))
    assert plan_to_text(plan, problem) == text
    assert parse_plan(text, problem) == plan


@given(problems())
def test_problems_come_back(problem: Problem) -> None:
    assert parse_problem(problem_to_text(problem)) == problem


@given(renamed_problems())
def test_names_come_back(problem: Problem) -> None:
    text = problem_to_text(problem)
    assert parse_problem(text) == problem
    assert len(text.split("\n")) == len(problem.buffers) + len(problem.ops) + 2


@given(plans())
def test_plans_come_back(drawn: tuple[Problem, Plan]) -> None:
    problem, plan = drawn
    assert parse_plan(plan_to_text(plan, problem), problem) == plan


@given(renamed_problems(), st.data())
def test_plans_of_any_name_come_back(problem: Problem, data: st.DataObject) -> None:
    plan = stacked_plan(problem, data.draw(orders(problem)))
    assert parse_plan(plan_to_text(plan, problem), problem) == plan


def test_comments_and_empty_lines_are_skipped() -> None:
    text = "# a graph\n\nproblem p\n  # its buffers\n  buffer a size=8\n\nop make creates=a\n"
    assert problem_to_text(parse_problem(text)) == "problem p\nbuffer a size=8\nop make creates=a\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected problem, found the end of the text"),
        ("buffer a size=8", "line 1: expected problem, found 'buffer'"),
        ("problem p\nproblem q", "line 2: expected buffer or op, found 'problem'"),
        ("problem p\n\ntensor a", "line 3: expected buffer or op, found 'tensor'"),
        ("problem p size=8", "line 1: expected no fields, found 'size'"),
        ("problem p\nbuffer a b", "line 2: expected one name, found 'buffer a b'"),
        ("problem p\nbuffer size=8", "line 2: expected one name, found 'buffer size=8'"),
        ("problem p\nbuffer a", "line 2: expected size=... for buffer 'a', found none"),
        ("problem p\nbuffer a size=big", "line 2: expected a whole number, found 'big'"),
        ("problem p\nbuffer a size=1 size=2", "line 2: expected size= once, found it twice"),
        (
            "problem p\nbuffer a size=8 home=away",
            "line 2: expected one of arena, external, user, found 'away'",
        ),
        (
            "problem p\nbuffer a size=8 colour=red",
            "line 2: expected one of size, kind, home, align, where, tier, found 'colour'",
        ),
        ("problem p\nbuffer a size=8 tier=moon", "line 2: expected one of device, host, file, f"),
        ("problem p\nop f lane=fast", "line 2: expected one of compute, copy_in, copy_out, comm"),
        ("problem p\nop f once=1", "line 2: expected yes, found '1'"),
        ("problem p\nop f cost=dear", "line 2: expected a number, found 'dear'"),
        ("problem p\nop f reads=a", "line 2: expected the name of a buffer, found 'a'"),
        ("problem p\nop f after=g", "line 2: expected the name of an op, found 'g'"),
        ("problem p\nbuffer a size=8\nop f over=a", "line 3: expected pairs created<read, found"),
    ],
)
def test_what_is_wrong_with_a_problem(text: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=f"^{re.escape(message)}"):
        parse_problem(text)


def test_a_whole_text_may_still_be_no_program() -> None:
    with pytest.raises(ReadBeforeWriteError, match="'a'"):
        parse_problem("problem p\nbuffer a size=8")


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        (0, "", "line 2: expected plan, found 'block'"),
        (0, "plan p peak=1", "line 1: expected live_peak=... for plan 'p', found none"),
        (1, "block offset=0", "line 2: expected size=... for block '', found none"),
        (1, "block top offset=0", "line 2: expected only fields, found"),
        (2, "run nothing", "line 3: expected the name of an op, found 'nothing'"),
        (7, "place nowhere offset=0", "line 8: expected the name of a buffer, found 'nowhere'"),
        (7, "place hx offset=high", "line 8: expected a whole number, found 'high'"),
        (7, "place hx over=nowhere", "line 8: expected the name of a buffer, found 'nowhere'"),
    ],
)
def test_what_is_wrong_with_a_plan(line: int, instead: str, message: str) -> None:
    lines = (GOLDEN / "training_step.plan.txt").read_text().split("\n")
    lines[line] = instead
    with pytest.raises(FileFormatError, match=f"^{re.escape(message)}"):
        parse_plan("\n".join(lines), graph("training_step"))


def test_a_plan_of_another_graph() -> None:
    text = (GOLDEN / "training_step.plan.txt").read_text()
    with pytest.raises(GraphMismatchError, match=r"'training_step'.*'chain'"):
        parse_plan(text, graph("chain"))
