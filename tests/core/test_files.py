from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.edits import Load, Offload, Recompute
from roam.core.errors import (
    EditError,
    FileFormatError,
    FileVersionError,
    GraphMismatchError,
    ReadBeforeWriteError,
)
from roam.core.files import problem_from_json, problem_to_json
from roam.core.plan import Plan
from roam.core.problem import Problem, Tier
from tests.core.strategies import (
    edited_plans,
    graph,
    plans,
    problems,
    renamed_problems,
    stacked_plan,
)

CHAIN = graph("chain")
PLAN = stacked_plan(CHAIN, (0, 1, 2)).to_json()
PROBLEM = problem_to_json(CHAIN)


@given(plans())
def test_plans_come_back(drawn: tuple[Problem, Plan]) -> None:
    problem, plan = drawn
    assert Plan.from_json(plan.to_json(), problem) == plan
    assert Plan.from_json(plan.to_json().decode(), problem) == plan


@given(st.one_of(problems(), renamed_problems()))
def test_problems_come_back(problem: Problem) -> None:
    again = problem_from_json(problem_to_json(problem))
    assert again == problem
    assert again.fingerprint == problem.fingerprint


@given(st.integers(0, len(PLAN) - 1))
def test_a_truncated_plan(length: int) -> None:
    with pytest.raises(FileFormatError):
        Plan.from_json(PLAN[:length], CHAIN)


@given(st.integers(0, len(PROBLEM) - 1))
def test_a_truncated_problem(length: int) -> None:
    with pytest.raises(FileFormatError):
        problem_from_json(PROBLEM[:length])


@given(st.binary())
def test_no_file_at_all(noise: bytes) -> None:
    with pytest.raises(FileFormatError):
        Plan.from_json(noise, CHAIN)
    with pytest.raises(FileFormatError):
        problem_from_json(noise)


def test_another_version() -> None:
    """Also where the rest of the file has changed."""
    with pytest.raises(FileVersionError, match="version 2"):
        Plan.from_json(b'{"roam_plan":2,"schedule":[]}', CHAIN)
    with pytest.raises(FileVersionError, match="version 2"):
        problem_from_json(b'{"roam_problem":2,"tensors":[]}')


def test_one_for_the_other() -> None:
    with pytest.raises(FileFormatError, match="not a whole plan file"):
        Plan.from_json(PROBLEM, CHAIN)
    with pytest.raises(FileFormatError, match="not a whole problem file"):
        problem_from_json(PLAN)


@pytest.mark.parametrize("field", ['"roam_plan":1', '"plan":{', '"blocks":[{'])
def test_an_unknown_field_of_a_plan(field: str) -> None:
    odd = field + '"colour":"red",' if field.endswith("{") else field + ',"colour":"red"'
    assert field in PLAN.decode()
    with pytest.raises(FileFormatError, match="colour"):
        Plan.from_json(PLAN.decode().replace(field, odd, 1), CHAIN)


@pytest.mark.parametrize("field", ['"roam_problem":1,', '"buffers":[{', '"ops":[{'])
def test_an_unknown_field_of_a_problem(field: str) -> None:
    assert field in PROBLEM.decode()
    odd = PROBLEM.decode().replace(field, field + '"colour":"red",', 1)
    with pytest.raises(FileFormatError, match="colour"):
        problem_from_json(odd)


def test_a_field_of_another_type() -> None:
    with pytest.raises(FileFormatError, match="peak"):
        Plan.from_json(PLAN.replace(b'"peak":', b'"peak":null,"was":'), CHAIN)
    with pytest.raises(FileFormatError, match="size"):
        problem_from_json(PROBLEM.replace(b'"size":1000', b'"size":"large"'))


def test_a_plan_of_another_graph() -> None:
    with pytest.raises(GraphMismatchError, match=r"'chain'.*'diamond'"):
        Plan.from_json(PLAN, graph("diamond"))


def test_a_whole_file_may_still_be_no_program() -> None:
    without_ops = PROBLEM[: PROBLEM.index(b'"ops":')] + b'"ops":[]}'
    with pytest.raises(ReadBeforeWriteError, match="'a'"):
        problem_from_json(without_ops)


@given(edited_plans())
def test_plans_with_edits_come_back(drawn: tuple[Problem, Plan]) -> None:
    problem, plan = drawn
    assert Plan.from_json(plan.to_json(), problem) == plan
    edited = plan.edited(problem)
    assert problem_from_json(problem_to_json(edited)) == edited


def offloading() -> Plan:
    edits = [Recompute("first", ("second",)), Offload("b", Tier.FILE, (Load(("third",)),))]
    return stacked_plan(CHAIN, tuple(range(8)), edits)


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        ('"type":"recompute"', '"type":"forget"'),
        ('"type":"recompute",', ""),
        ('"type":"recompute"', '"type":"recompute","colour":"red"'),
        ('"op":"first"', '"op":1'),
        ('"readers":["second"]', '"readers":"second"'),
        ('"tier":"file"', '"tier":"moon"'),
        ('{"readers":["third"]', '{"colour":"red","readers":["third"]'),
        ('"elsewhere":{"file"', '"elsewhere":{"moon"'),
        ('"elsewhere":{"file":{', '"elsewhere":{"file":{"colour":"red",'),
    ],
)
def test_what_is_no_edit_or_tier(field: str, odd: str) -> None:
    text = offloading().to_json().decode()
    assert field in text
    with pytest.raises(FileFormatError):
        Plan.from_json(text.replace(field, odd, 1), CHAIN)


def test_edits_that_the_problem_does_not_allow() -> None:
    text = offloading().to_json().replace(b'"op":"first"', b'"op":"third"')
    with pytest.raises(EditError, match="'third'"):
        Plan.from_json(text, CHAIN)


def test_files_without_edits_and_tiers_are_as_they_were() -> None:
    """What came later is left out at its default, so that older files and fingerprints stay."""
    assert PROBLEM == (
        b'{"roam_problem":1,"name":"chain","buffers":['
        b'{"name":"x","size":1000,"kind":"input","home":"user","align":64,"where":""},'
        b'{"name":"a","size":100,"kind":"temporary","home":"arena","align":64,"where":""},'
        b'{"name":"b","size":200,"kind":"temporary","home":"arena","align":64,"where":""},'
        b'{"name":"c","size":50,"kind":"output","home":"arena","align":64,"where":""}],"ops":['
        b'{"name":"first","reads":[0],"creates":[1],"mutates":[],"over":[],"scratch":0,"phase":0,'
        b'"cost":0.0,"after":[],"where":""},'
        b'{"name":"second","reads":[1],"creates":[2],"mutates":[],"over":[],"scratch":0,"phase":0,'
        b'"cost":0.0,"after":[],"where":""},'
        b'{"name":"third","reads":[2],"creates":[3],"mutates":[],"over":[],"scratch":0,"phase":0,'
        b'"cost":0.0,"after":[],"where":""}]}'
    )
    assert b"edits" not in PLAN
    assert b"elsewhere" not in PLAN
