"""Memory regression tests: a fixture that holds a plan against a golden file beside the test.

    def test_memory(memory_plan):
        memory_plan.check(roam.plan(MyModel(), batch, loss=loss), tolerance="1%")

The golden lies in `memory_plans/<test file>/<test>.json`. `pytest --memory-plan-update` writes
it; what it says is accepted by committing it, and so it is refused where `CI` is set.
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
_SENT = "memory_plan_remarks"  # what a worker of pytest-xdist tells the controller


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("roam", "memory regression tests")
    group.addoption(UPDATE, action="store_true", help="Write the golden files of memory_plan.")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(UPDATE) and os.environ.get("CI"):
        raise pytest.UsageError(f"{UPDATE} is refused in CI: write goldens where you can see them")
    config.pluginmanager.register(_Ledger(config), "roam_memory_plans")


@pytest.fixture
def memory_plan(request: pytest.FixtureRequest) -> MemoryPlan:
    """Holds plans against golden files: see `MemoryPlan.check`."""
    ledger = request.config.pluginmanager.get_plugin("roam_memory_plans")
    assert isinstance(ledger, _Ledger)
    return MemoryPlan(request.node, bool(request.config.getoption(UPDATE)), ledger)


@dataclass
class MemoryPlan:
    """What the fixture `memory_plan` is."""

    item: pytest.Item
    update: bool
    ledger: _Ledger
    checked: set[Path] = field(default_factory=set)

    def check(self, plan: StepPlan, tolerance: str | int = "1%", name: str = "") -> None:
        """Fails where the peak or the persistent bytes grew beyond the golden's by more than so.

        tolerance: a share of the golden's bytes ("1%"), or bytes (4096, "10MiB"). name: tells
        the checks of one test apart. A missing golden fails too, and so does a graph without a
        plan, whose memory nobody knows. What shrank by more passes, with a remark at the end of
        the run. Raises OptionError for a bad tolerance or name.
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
    """Where the golden of a test lies: letters, digits, `-`, `_` and `.` only."""
    told = ".".join(filter(None, (_name(item), name)))
    clean = re.sub(r"[^\w.-]+", "-", told).strip("-")
    return item.path.parent / FOLDER / item.path.stem / f"{clean}.json"


def _name(item: pytest.Item) -> str:
    """What tells a test from the others in its file: its class, name and parameters."""
    return item.nodeid.partition("::")[2]


def _shown(path: Path) -> str:
    return os.path.relpath(path)


@dataclass
class _Ledger:
    """Knows which tests there are and which goldens they used, and says what is left over.

    Under pytest-xdist every worker has one, and sends its remarks to the controller's.
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
        """Goldens whose test is gone, or has passed without them."""
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
        """Whether only some tests of a file were asked for: then nobody knows what is stale."""
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
