"""The fixture `memory_plan`, in the test runs of users."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roam.inspect.breakdown import breakdown
from roam.pytest_plugin import UPDATE
from tests.inspect.steps import MIB, step

pytest_plugins = ["pytester"]

TESTS = """
import os
import roam
import pytest
from tests.inspect.steps import step

SAVED = int(os.environ.get("SAVED", 2))

@pytest.mark.parametrize("name", ["a/b", "c"])
def test_memory(memory_plan, name):
    memory_plan.check(step(saved=SAVED), tolerance="1%")

def test_other():
    pass
"""


class Project:
    """A user's project with a test that holds a plan against a golden."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester, self.monkeypatch = pytester, monkeypatch
        self.file = pytester.makepyfile(test_it=TESTS)
        self.goldens = pytester.path / "memory_plans" / "test_it"
        self.monkeypatch.delenv("CI", raising=False)
        self.monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)

    def run(self, *arguments: str, saved: int = 2, apart: bool = False) -> pytest.RunResult:
        self.monkeypatch.setenv("SAVED", str(saved))
        run = self.pytester.runpytest_subprocess if apart else self.pytester.runpytest_inprocess
        return run(*arguments)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(pytester, monkeypatch)


def test_a_missing_golden_fails_and_says_how_to_write_it(project: Project) -> None:
    result = project.run()
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["no golden memory_plans/test_it/test_memory-a-b.json", f"to write it: pytest {UPDATE} *"]
    )
    assert not project.goldens.exists()


def test_update_writes_what_then_passes(project: Project) -> None:
    project.run(UPDATE).assert_outcomes(passed=3)
    names = sorted(p.name for p in project.goldens.iterdir())
    assert names == ["test_memory-a-b.json", "test_memory-c.json"]
    stored = (project.goldens / names[1]).read_bytes()
    assert stored == breakdown(step()).to_json("test_memory[c]")
    result = project.run()
    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("*memory plans*")


def test_a_project_with_a_conftest_in_a_subfolder(project: Project) -> None:
    """pytest puts plugins into a set there, and the ledger could not be in one."""
    for folder in ("first", "second"):
        (project.pytester.path / folder).mkdir()
        (project.pytester.path / folder / "conftest.py").write_text("")
        (project.pytester.path / folder / "test_more.py").write_text("def test_more(): pass\n")
    project.run(UPDATE, "--import-mode=importlib").assert_outcomes(passed=5)


def test_growth_fails_with_the_module_that_grew_most_first(project: Project) -> None:
    project.run(UPDATE)
    result = project.run(saved=4)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "peak *7.00 MiB →    9.00 MiB  (+2.00 MiB, +28.6%)",
            "by module, what grew most first",
            "  encoder *2.00 MiB →    4.00 MiB*",
            "by kind, what grew most first",
            "  saved *",
            f"to accept it: pytest {UPDATE} 'test_it.py::test_memory?c?'",
        ]
    )


def test_what_shrank_passes_with_a_remark(project: Project) -> None:
    project.run(UPDATE, saved=4)
    result = project.run()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*memory plans*", "*test_memory-c.json is 2.00 MiB too high by *"])


def test_update_is_refused_in_ci(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = project.run(UPDATE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{UPDATE} is refused in CI*"])
    assert not project.goldens.exists()


def test_stale_goldens_are_listed(project: Project) -> None:
    project.run(UPDATE)
    golden = (project.goldens / "test_memory-c.json").read_bytes()
    (project.goldens / "gone.json").write_bytes(golden.replace(b"test_memory[c]", b"test_gone"))
    (project.goldens / "idle.json").write_bytes(golden)
    (project.goldens / "broken.json").write_bytes(b"{}")
    (project.goldens / "folder.json").mkdir()
    result = project.run()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "*broken.json: not a whole breakdown file*",
            "*folder.json: *Is a directory*",
            "*gone.json is stale, no check uses it: delete it",
            "*idle.json is stale, no check uses it: delete it",
        ]
    )
    result.stdout.no_fnmatch_line("*test_memory-c.json*")


@pytest.mark.parametrize("some", [("-k", "other"), ("test_it.py::test_other",)])
def test_what_did_not_run_is_not_stale(project: Project, some: tuple[str, ...]) -> None:
    project.run(UPDATE)
    result = project.run(*some)
    result.assert_outcomes(passed=1, deselected=2 if len(some) == 2 else 0)
    result.stdout.no_fnmatch_line("* is stale*")


@pytest.mark.slow
def test_under_xdist(project: Project) -> None:
    project.run(UPDATE, "-n2", apart=True).assert_outcomes(passed=3)
    golden = project.goldens / "test_memory-c.json"
    (project.goldens / "idle.json").write_bytes(golden.read_bytes())
    (project.goldens / "test_memory-a-b.json").unlink()
    result = project.run("-n2", apart=True)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["no golden*test_memory-a-b.json", "*idle.json is stale*"])


def test_tolerance(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    body = """
        from tests.inspect.steps import step
        import pytest

        @pytest.mark.parametrize("tolerance", ["30%", "2MiB", {size}, "28%", 0, "a lot"])
        def test_it(memory_plan, tolerance):
            memory_plan.check(step(saved={saved}), tolerance)
    """
    pytester.makepyfile(test_it=body.format(saved=2, size=2 * MIB))
    pytester.runpytest_inprocess(UPDATE).assert_outcomes(passed=5, failed=1)
    pytester.makepyfile(test_it=body.format(saved=4, size=2 * MIB))
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(["*OptionError: a tolerance is a share or a size*not 'a lot'"])


def test_two_checks_need_names(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    pytester.makepyfile(
        """
        from tests.inspect.steps import step

        def test_named(memory_plan):
            memory_plan.check(step(), name="one")
            memory_plan.check(step(saved=3), name="two")

        def test_unnamed(memory_plan):
            memory_plan.check(step())
            memory_plan.check(step(saved=3))
        """
    )
    result = pytester.runpytest_inprocess(UPDATE)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*OptionError: two checks of test_unnamed share a golden*"])


def test_tests_that_share_a_golden(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes have goldens of their own; names that differ in odd characters only are refused."""
    monkeypatch.delenv("CI", raising=False)
    pytester.makepyfile(
        """
        import pytest
        from tests.inspect.steps import step

        class TestOne:
            def test_it(self, memory_plan):
                memory_plan.check(step())

        class TestTwo:
            def test_it(self, memory_plan):
                memory_plan.check(step(saved=3))

        @pytest.mark.parametrize("name", ["a+b", "a-b"])
        def test_names(memory_plan, name):
            memory_plan.check(step())
        """
    )
    pytester.runpytest_inprocess(UPDATE).assert_outcomes(passed=4)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*test_names-a-b.json is the golden of test_names?a-b?: rename*"])


def test_a_graph_without_a_plan_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from roam.inspect.record import GraphRecord
        from roam.inspect.step_plan import StepPlan
        from tests.inspect.steps import step

        def test_it(memory_plan):
            odd = GraphRecord("odd", reason="a size that depends on data")
            memory_plan.check(StepPlan((*step().graphs, odd)))
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["nobody knows what the step takes: odd: unplanned, a size *"])
