"""What grew between two plans."""

from __future__ import annotations

import roam
from roam.inspect.breakdown import breakdown
from roam.inspect.compare import ROWS, Change
from tests.inspect.steps import MIB, chain, step


def test_what_grew_most_comes_first() -> None:
    found = roam.compare(step(), step(saved=7, weight=5))
    assert found.modules == (
        Change("encoder", 2 * MIB, 7 * MIB),
        Change("head", 12 * MIB + 512, 14 * MIB + 512),
    )
    assert [c.name for c in found.kinds] == ["saved", "parameter", "state"]
    grown = found.after.total - found.before.total
    assert sum(c.grew for c in found.modules) == sum(c.grew for c in found.kinds) == grown


def test_what_shrank_comes_last() -> None:
    found = roam.compare(step(saved=7), step(weight=5))
    assert [(c.name, c.grew) for c in found.modules] == [("head", 2 * MIB), ("encoder", -5 * MIB)]
    assert "−5.00 MiB, -71.4%" in str(found)


def test_equal_plans_have_no_changes() -> None:
    found = roam.compare(step(), breakdown(step()))
    assert found.modules == found.kinds == ()
    assert "by module" not in str(found)


def test_a_module_that_is_gone() -> None:
    found = roam.compare(chain(2), step())
    assert Change("layers.1", 64, 0) in found.modules


def test_a_long_table_is_cut() -> None:
    lines = str(roam.compare(step(), chain(ROWS + 5))).splitlines()
    first = lines.index("by module, what grew most first") + 1
    assert lines[first + ROWS].startswith("  and 8 more, together ")  # 15 layers, 3 others
    assert len(set(lines[first : first + ROWS])) == ROWS
