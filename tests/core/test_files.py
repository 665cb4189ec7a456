from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.errors import (
    FileFormatError,
    FileVersionError,
    GraphMismatchError,
    ReadBeforeWriteError,
)
from roam.core.files import problem_from_json, problem_to_json
from roam.core.plan import Plan
from roam.core.problem import Problem
from tests.core.strategies import graph, plans, problems, renamed_problems, stacked_plan

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
