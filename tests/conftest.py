"""Hypothesis draws the same examples on every run in CI, and has no deadline anywhere.

Most of the suite's time is compilation. What it spends there on other things than compiling is
turned off here.
"""

from __future__ import annotations

import os

# Two processes with two threads each share two cores: threads that wait must not spin, or a test of
# twenty seconds takes minutes. OpenMP reads this once, when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Inductor takes the compiler's word for which vector instructions it knows: else it compiles and
# loads ten programs in each process that finds no cache
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")

import gc
import itertools
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.guards
import torch._functorch.config
import torch._inductor.config
from hypothesis import settings

import roam
from roam.core import machine
from roam.passes.rewrites.recompute import Recompute
from roam.passes.rewrites.table import EXACT
from tests import kernels_together
from tests.helpers import CpuWith

ROOT = Path(__file__).parents[1]
# numba keeps what it compiled until a function's own file changes, whatever becomes of the
# functions that it calls: here every state of the sources has a cache of its own
SOURCES = b"".join(f.read_bytes() for f in sorted(ROOT.glob("solvers/**/*.py")))
CACHE = f"numba-{sha256(SOURCES).hexdigest()[:12]}"
os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".pytest_cache" / CACHE)

# what the machine measures of ops is no other run's
COSTS = tempfile.TemporaryDirectory(prefix="roam-tests-")
os.environ["ROAM_CACHE_DIR"] = COSTS.name

kernels_together.take_over()  # alone each takes a second, most of it for torch's headers

# After each compilation dynamo empties the processor's caches, to time its guards for a log line.
torch._dynamo.guards.profile_guard_manager = lambda *_: 0.0
# pytest listens to loggers that do not propagate: torch would write out every graph for this one
logging.getLogger("torch.__trace").propagate = True


gc.set_threshold(10_000, 20, 20)
_tests = itertools.count()


def _freeze() -> None:
    """Keeps Python from looking for garbage among what is there to stay: modules, above all.

    Each measurement of memory collects garbage first. After some hundred tests that took a second.
    """
    if next(_tests) % 25 == 0:
        gc.collect()
        gc.freeze()


WHOLE_SUITE = 1000  # tests: so many need every search


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compiles this worker's share of the searches before the tests of a run of the whole suite."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and len(session.items) > WHOLE_SUITE:
        from tests.compiled_searches import compile_share

        compile_share(worker)


settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """No graph compiled, no record and no arena is left from the test before."""
    torch._dynamo.reset()
    roam.reset_report()
    _freeze()
    yield
    torch._dynamo.reset()
    roam.release()


@pytest.fixture
def shared_kernels() -> Iterator[None]:
    """The C++ kernels that Inductor compiles are kept, by their sources; graphs are not.

    Inductor's own cache keeps them, so that another checkout compiles only what it changed.
    One thread: several add up what scatters into one place, an embedding's gradient, in any order.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with (
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def cpu_with(monkeypatch: pytest.MonkeyPatch) -> CpuWith:
    """Changes facts about the CPU for a test: cpu_with(loss_block=4096)."""

    def change(**facts: Any) -> None:
        monkeypatch.setitem(machine.DEVICES, "cpu", replace(machine.of("cpu"), **facts))

    return change


@pytest.fixture
def everything_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of tests are so small that the planner would mostly do without an arena.

    Here whatever may lie in the arena does, and whatever may be recomputed is.
    """
    monkeypatch.setattr("roam.solvers.layout.placement.arena_limit", lambda *_: 2**60)
    rewrites = [replace(p, smallest=1) if isinstance(p, Recompute) else p for p in EXACT["aten"]]
    monkeypatch.setitem(EXACT, "aten", tuple(rewrites))


@pytest.fixture
def registered() -> None:
    """Loads what registers itself when it is imported: dynamo's backends, and our operators."""
    torch._dynamo.list_backends(exclude_tags=())
    import_module("roam.lowering.inductor.kernels")


@pytest.fixture
def pytester(registered: None, pytester: pytest.Pytester) -> pytest.Pytester:
    """pytester, which takes the modules away again that a run within the process was first to load.

    Imported once more, they would register a second time.
    """
    return pytester
