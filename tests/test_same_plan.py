"""The same problem gets the same plan, byte for byte: on a slow machine, beside busy processes, and
with searches that are interpreted instead of compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from msgspec.structs import replace

from roam.bench.layered import layered_graph
from roam.bench.synthetic import training_graph
from roam.core.check import check
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.text import parse_plan, plan_to_text
from roam.planner import Settings, plan
from tests.core.strategies import GRAPHS, graph, problems

LITTLE = Settings(seconds=0.2)  # the work ends before the searches do
MORE = Settings(seconds=0.25)  # enough for the searches that numba compiles
BUSY = "while True: pass"
PLANNED = """
from tests.test_same_plan import MORE, SOME, in_bytes, without_a_deadline
from roam.planner import plan
print(in_bytes(plan(SOME["broad"], without_a_deadline(MORE))).decode())
"""


def in_bytes(found: Plan) -> bytes:
    """The plan's file, but for the seconds."""
    return replace(found, seconds=0.0).to_json()


def without_a_deadline(settings: Settings) -> Settings:
    return Settings(settings.seconds, settings.placement, settings.fixed, patience=inf)


@contextmanager
def a_thread_that_never_waits() -> Iterator[None]:
    """Takes half of the interpreter's time."""
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


SOME: dict[str, Problem] = {
    "layered": layered_graph(60, seed=3),
    "broad": layered_graph(80, width=0.43, seed=2),
    "training": training_graph(200),
    **{name: graph(name) for name in GRAPHS},
}


@pytest.mark.parametrize("name", SOME)
def test_in_a_process_that_is_slowed_down(name: str) -> None:
    alone = plan(SOME[name], LITTLE)
    with a_thread_that_never_waits():
        beside = plan(SOME[name], LITTLE)
    assert not alone.cut_short
    assert in_bytes(alone) == in_bytes(beside)


@given(problems(max_ops=9))
def test_without_a_clock(problem: Problem) -> None:
    settings = Settings(seconds=1e-4)
    assert in_bytes(plan(problem, settings)) == in_bytes(
        plan(problem, without_a_deadline(settings))
    )


def test_with_searches_that_are_interpreted() -> None:
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PLANNED], cwd=root, env=env, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    compiled = plan(SOME["broad"], without_a_deadline(MORE))
    assert compiled.method.startswith("local search")  # which numba compiles
    assert done.stdout.strip() == in_bytes(compiled).decode()


@pytest.mark.parametrize("name", ["layered", "training"])
def test_a_plan_that_the_clock_cut_short_says_so(name: str) -> None:
    problem = SOME[name]
    whole, cut = plan(problem), plan(problem, Settings(patience=0.0))
    check(problem, cut)
    assert (whole.cut_short, cut.cut_short) == (False, True)
    assert b"cut_short" not in whole.to_json()
    assert Plan.from_json(cut.to_json(), problem).cut_short
    assert "cut_short" not in plan_to_text(whole, problem)
    assert " cut_short=yes" in plan_to_text(cut, problem)
    assert parse_plan(plan_to_text(cut, problem), problem).cut_short


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_beside_two_busy_processes(seed: int) -> None:
    problem = layered_graph(40 + 10 * seed, seed=seed)
    settings = Settings(seconds=1.0)
    alone = plan(problem, settings)
    with busy_processes(2):
        beside = plan(problem, settings)
    assert in_bytes(alone) == in_bytes(beside)
