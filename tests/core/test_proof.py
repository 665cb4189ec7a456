"""What proves a bound, in files and in words."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from roam.core.bounds import must_live_bound
from roam.core.check import check
from roam.core.errors import FigureError, FileFormatError
from roam.core.plan import Plan
from roam.core.problem import Buffer, Kind, Op, Problem
from roam.core.proof import UNKNOWN, Cut, Kept, MustLive, Proof, Search, show_proof
from roam.core.text import parse_plan, plan_to_text
from tests.core.strategies import graph, stacked_plan

PROOFS: dict[str, tuple[Proof, str]] = {
    "kept": (Kept(), "kept"),
    "must-live": (MustLive(0), "must-live at linear_1"),
    "cut": (Cut(2), "cut at mean"),
    "search": (Search(1), "search of phase 1"),
    "unknown": (UNKNOWN, "unknown"),
}


@pytest.mark.parametrize("name", PROOFS)
def test_proofs_come_back(name: str) -> None:
    proof, _ = PROOFS[name]
    problem = graph("training_step")
    made = replace(stacked_plan(problem, (0, 1, 2, 3, 4)), proof=proof)
    check(problem, made)
    assert Plan.from_json(made.to_json(), problem).proof == proof
    text = plan_to_text(made, problem)
    assert parse_plan(text, problem).proof == proof
    assert ("proof=" in text) == (b"proof" in made.to_json()) == (proof != UNKNOWN)


@pytest.mark.parametrize("name", PROOFS)
def test_proofs_in_words(name: str) -> None:
    proof, words = PROOFS[name]
    problem = graph("training_step")
    assert show_proof(proof, problem) == words


@pytest.mark.parametrize("proof", [MustLive(5), Cut(-1), Search(2), Search(-1)])
def test_a_proof_by_what_is_not_there(proof: Proof) -> None:
    problem = graph("training_step")
    made = replace(stacked_plan(problem, (0, 1, 2, 3, 4)), proof=proof)
    with pytest.raises(FigureError, match="the bound is proven"):
        check(problem, made)


@pytest.mark.parametrize("word", ["cut:nobody", "search:x", f"search:{'9' * 5000}", "luck"])
def test_a_word_that_is_no_proof(word: str) -> None:
    problem = graph("training_step")
    text = plan_to_text(stacked_plan(problem, (0, 1, 2, 3, 4)), problem)
    with pytest.raises(FileFormatError, match="line 1: expected"):
        parse_plan(text.replace(" peak=", f" proof={word} peak=", 1), problem)


def test_must_live_names_the_op_that_sees_the_most() -> None:
    assert must_live_bound(graph("chain")).proof == MustLive(1)
    kept = Problem("kept", (Buffer("gradient", 8, Kind.GRADIENT),), (Op("make", creates=(0,)),))
    assert must_live_bound(kept) == (8, Kept())
    assert must_live_bound(Problem("empty", (), ())) == (0, Kept())
