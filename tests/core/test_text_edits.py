from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.edits import AnyEdit, Load, Offload, Recompute, Shrink, Split
from roam.core.errors import EditError, FileFormatError
from roam.core.plan import Plan
from roam.core.problem import Problem, Tier
from roam.core.text import parse_plan, plan_to_text
from roam.core.text_edits import EDITS, edits_to_lines, parse_edits
from roam.core.text_records import parse_records
from tests.core.strategies import edited_plans, graph, stacked_plan

NAMES = st.text(min_size=1)
LISTS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
PLACES = st.one_of(st.just(""), NAMES)
COSTS = st.sampled_from((0.0, 1e-6, 0.25))
ANY_EDIT = st.one_of(
    st.builds(Recompute, NAMES, LISTS, PLACES),
    st.builds(
        Split,
        LISTS,
        st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
        st.one_of(st.just(()), LISTS),
        st.one_of(st.just(()), LISTS),
    ),
    st.builds(
        Offload,
        NAMES,
        st.sampled_from((Tier.HOST, Tier.FILE)),
        st.lists(st.builds(Load, LISTS, PLACES, PLACES), max_size=2).map(tuple),
        PLACES,
        PLACES,
    ),
    st.builds(Shrink, NAMES, st.integers(0, 99), NAMES, LISTS, st.booleans(), COSTS, COSTS),
)


@given(st.lists(ANY_EDIT, max_size=4))
def test_edits_come_back(edits: list[AnyEdit]) -> None:
    text = "\n".join(["plan p", *edits_to_lines(edits)])
    head, *records = parse_records(text, "plan", EDITS)
    assert head.name == "p"
    assert list(parse_edits(records)) == edits


@given(edited_plans())
def test_edited_plans_come_back(drawn: tuple[Problem, Plan]) -> None:
    problem, plan = drawn
    assert parse_plan(plan_to_text(plan, problem), problem) == plan


CHAIN = graph("chain")


def edited_chain() -> Plan:
    edits: list[AnyEdit] = [
        Recompute("first", ("second",), "second"),
        Offload("b", Tier.FILE, (Load(("third",)),)),
    ]
    return stacked_plan(CHAIN, tuple(range(8)), edits)


def test_what_a_plan_with_edits_looks_like() -> None:
    lines = plan_to_text(edited_chain(), CHAIN).split("\n")
    assert lines[1:6] == [
        "recompute first readers=second before=second",
        "offload b tier=file",
        "load b readers=third",
        "block offset=0 size=712 lower=0 upper=8",
        "block offset=0 size=200 lower=0 upper=8 tier=file",
    ]
    assert "run first~1" in lines
    assert "place b~file~1 offset=0 tier=file" in lines


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        (1, "recompute first", "line 2: expected readers=... for recompute 'first', found none"),
        (1, "recompute first readers=second at=1", "line 2: expected one of readers, before, f"),
        (1, "split all ops=first rows=1,1", "line 2: expected only fields, found"),
        (1, "split ops=first", "line 2: expected rows=... for split '', found none"),
        (1, "split ops=first rows=1,x", "line 2: expected a whole number, found '1,x'"),
        (1, "shrink a size=1 method=int8", "line 2: expected readers=... for shrink 'a', found"),
        (1, "shrink a size=1 method=m readers=b restored=no", "line 2: expected yes, found 'no'"),
        (2, "", "line 4: expected offload b, then its loads, found a load"),
        (2, "offload a tier=file", "line 4: expected offload b, then its loads, found a load"),
        (2, "offload b", "line 3: expected tier=... for offload 'b', found none"),
        (2, "offload b tier=moon", "line 3: expected one of device, host, file, found 'moon'"),
        (3, "load b start=third", "line 4: expected readers=... for load 'b', found none"),
        (5, "block offset=0 size=200 lower=0 upper=8 tier=x", "line 6: expected one of device"),
        (7, "run first~2", "line 8: expected the name of an op, found 'first~2'"),
    ],
)
def test_what_is_wrong_with_an_edit(line: int, instead: str, message: str) -> None:
    lines = plan_to_text(edited_chain(), CHAIN).split("\n")
    lines[line] = instead
    with pytest.raises(FileFormatError, match=f"^{re.escape(message)}"):
        parse_plan("\n".join(lines), CHAIN)


def test_edits_that_the_problem_does_not_allow() -> None:
    text = plan_to_text(edited_chain(), CHAIN).replace("recompute first", "recompute nothing")
    with pytest.raises(EditError, match="'nothing'"):
        parse_plan(text, CHAIN)
