"""Memory regression tests: a fixture that compares a plan with a golden file beside the test.

    def test_memory(memory_plan):
        memory_plan.check(roam.plan(MyModel(), batch, loss=loss), tolerance="1%")

The golden file is `memory_plans/<test file>/<test>.json`. `pytest --memory-plan-update` writes it.
Committing it accepts the new figures, so the option is refused if `CI` is set.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from roam.core.atomic_write import write_file
from roam.core.errors import FileFormatError, OptionError, UnplannedStepError
from roam.core.sizes import show_size

if TYPE_CHECKING:
    from roam.inspect.step_plan import StepPlan

FOLDER = "memory_plans"
UPDATE = "--memory-plan-update"
_SENT = "memory_plan_remarks"  # the key under which a pytest-xdist worker sends its remarks


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("roam", "memory regression tests")
    group.addoption(UPDATE, action="store_true", help="Write the golden files of memory_plan.")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(UPDATE) and os.environ.get("CI"):
        raise pytest.UsageError(f"{UPDATE} is refused in CI: write goldens where you can see them")
    config.pluginmanager.register(_Ledger(config), "roam_memory_plans")


@pytest.fixture
def memory_plan(request: pytest.FixtureRequest) -> MemoryPlan:
    """Compares plans with golden files: see `MemoryPlan.check`."""
    ledger = request.config.pluginmanager.get_plugin("roam_memory_plans")
    assert isinstance(ledger, _Ledger)
    return MemoryPlan(request.node, bool(request.config.getoption(UPDATE)), ledger)


@dataclass
class MemoryPlan:
    """The value of the fixture `memory_plan`."""

    item: pytest.Item
    update: bool
    ledger: _Ledger
    checked: set[Path] = field(default_factory=set)

    def check(self, plan: StepPlan, tolerance: str | int = "1%", name: str = "") -> None:
        """Fails the test if peak or persistent bytes exceed the golden's by more than `tolerance`.

        Fails too if there is no golden, or if a graph has no plan and its memory is unknown. If
        the bytes shrank by more than `tolerance`, the check passes, with a remark at the end of
        the run.

        Args:
            plan: the plan to check.
            tolerance: a share of the golden's bytes ("1%"), or bytes (4096, "10MiB").
            name: distinguishes several checks in one test.

        Raises:
            OptionError: a bad tolerance, or a second check with the same name.
        """
        from roam.inspect.breakdown import breakdown, breakdown_from_json
        from roam.inspect.compare import Tolerance, compare

        path = golden_path(self.item, name)
        if path in self.checked:
            raise OptionError(f"two checks of {_name(self.item)} share a golden: give them a name=")
        self.checked.add(path)
        self.ledger.used[self.item.path].add(path)
        allowed = Tolerance.parse(tolerance)
        try:
            plan.check_planned()
        except UnplannedStepError as error:
            pytest.fail(str(error), pytrace=False)
        now = breakdown(plan)
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, now.to_json(_name(self.item)))
            return
        command = f"pytest {UPDATE} '{self.item.nodeid}'"
        if not path.exists():
            pytest.fail(f"no golden {_shown(path)}\nto write it: {command}", pytrace=False)
        try:
            golden, test = breakdown_from_json(path.read_bytes())
        except FileFormatError as error:
            pytest.fail(f"{_shown(path)}: {error}\nto write it: {command}", pytrace=False)
        if test != _name(self.item):
            said = f"{_shown(path)} is the golden of {test}: rename one of the tests, and run"
            pytest.fail(f"{said} {command}", pytrace=False)
        grown = compare(golden, now)
        if grown.exceeds(allowed):
            said = f"the plan takes more than its golden {_shown(path)} and {tolerance}\n"
            said += f"{grown}\nto accept it: {command}"
            pytest.fail(said, pytrace=False)
        if compare(now, golden).exceeds(allowed):
            saved = show_size(golden.total - now.total)
            self.ledger.remarks.append(f"{_shown(path)} is {saved} too high by now: {command}")


def golden_path(item: pytest.Item, name: str = "") -> Path:
    """Returns the path of a test's golden. Its name has letters, digits, `-`, `_` and `.` only."""
    told = ".".join(filter(None, (_name(item), name)))
    clean = re.sub(r"[^\w.-]+", "-", told).strip("-")
    return item.path.parent / FOLDER / item.path.stem / f"{clean}.json"


def _name(item: pytest.Item) -> str:
    """Returns the part of a test's id that is unique in its file: class, name and parameters."""
    return item.nodeid.partition("::")[2]


def _shown(path: Path) -> str:
    return os.path.relpath(path)


@dataclass(eq=False)  # pytest puts plugins into sets
class _Ledger:
    """Records which tests used which goldens, and reports goldens that no test used.

    Under pytest-xdist every worker has a ledger, and sends its remarks to the controller's.
    """

    config: pytest.Config
    tests: dict[Path, set[str]] = field(default_factory=lambda: defaultdict(set))
    passed: dict[Path, set[str]] = field(default_factory=lambda: defaultdict(set))
    used: dict[Path, set[Path]] = field(default_factory=lambda: defaultdict(set))
    remarks: list[str] = field(default_factory=list)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self.tests[item.path].add(_name(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        yield  # raises where the test fails
        self.passed[item.path].add(_name(item))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self.remarks += self.stale()
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput[_SENT] = self.remarks

    def stale(self) -> list[str]:
        """Returns remarks about goldens whose test is gone, or passed without using them."""
        from roam.inspect.breakdown import breakdown_from_json

        if self.partial:
            return []
        found = []
        for file, names in self.tests.items():
            for golden in sorted((file.parent / FOLDER / file.stem).glob("*.json")):
                try:
                    _, test = breakdown_from_json(golden.read_bytes())
                except (FileFormatError, OSError) as error:
                    found.append(f"{_shown(golden)}: {error}")
                    continue
                idle = test in self.passed[file] and golden not in self.used[file]
                if test not in names or idle:
                    found.append(f"{_shown(golden)} is stale, no check uses it: delete it")
        return found

    @property
    def partial(self) -> bool:
        """Whether pytest runs only some tests of a file: then unused goldens need not be stale."""
        some = any("::" in str(arg) for arg in self.config.args)
        return some or bool(self.config.getoption("lf", False))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.remarks += getattr(node, "workeroutput", {}).get(_SENT, [])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.remarks:
            terminalreporter.section("memory plans")
            for remark in sorted(set(self.remarks)):
                terminalreporter.line(remark)
