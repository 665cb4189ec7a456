"""`roam.compare`: finds what grew from one plan to another, by module and by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import overload

from roam.core.errors import OptionError, SizeFormatError
from roam.core.sizes import parse_size, show_size
from roam.inspect.breakdown import Breakdown, breakdown
from roam.inspect.moment import TOP
from roam.inspect.step_plan import StepPlan

ROWS = 10  # rows of a printed table; the rest is summed in one line


@dataclass(frozen=True)
class Tolerance:
    """How much a number of bytes may grow: by a share of itself, plus `size` bytes."""

    share: float = 0.0
    size: int = 0

    @staticmethod
    def parse(text: str | int) -> Tolerance:
        """Reads a share ("1%") or a size (4096, "10MiB"). Raises OptionError."""
        percent = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", str(text))
        if percent:
            return Tolerance(share=float(percent[1]) / 100)
        try:
            return Tolerance(size=parse_size(text))
        except SizeFormatError:
            message = f"a tolerance is a share or a size, '1%' or '10MiB', not {text!r}"
            raise OptionError(message) from None

    def exceeded(self, before: int, after: int) -> bool:
        return after > before + before * self.share + self.size


@dataclass(frozen=True)
class Change:
    """Bytes of one module or one kind, before and after."""

    name: str
    before: int
    after: int

    @property
    def grew(self) -> int:
        """Bytes, negative if it shrank."""
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """Two breakdowns. The changes by module, or by kind, add up to the change of the total."""

    before: Breakdown
    after: Breakdown

    @property
    def modules(self) -> tuple[Change, ...]:
        """Every module whose bytes changed, the one that grew most first."""
        return self._changes("module")

    @property
    def kinds(self) -> tuple[Change, ...]:
        """Every kind whose bytes changed, the one that grew most first."""
        return self._changes("kind")

    def exceeds(self, tolerance: Tolerance) -> bool:
        """Returns whether the peak or the persistent bytes grew by more than the tolerance."""
        one, two = self.before, self.after
        pairs = ((one.peak, two.peak), (one.persistent, two.persistent))
        return any(tolerance.exceeded(*pair) for pair in pairs)

    def _changes(self, field: str) -> tuple[Change, ...]:
        before, after = (_sums(b, field) for b in (self.before, self.after))
        names = before | after
        changes = (Change(name, before[name], after[name]) for name in names)
        return tuple(sorted((c for c in changes if c.grew), key=lambda c: (-c.grew, c.name)))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        both = {"before": self.before, "after": self.after}
        for what in ("total", "peak", "persistent"):
            change = Change(what, *map(attrgetter(what), both.values()))
            yield _line(change, what, 12)
        bound = Change("lower bound", *(b.claimed_bound for b in both.values()))
        stated = " and ".join(which for which, b in both.items() if b.stated)
        yield _line(bound, bound.name, 12) + (f"  ({stated}: stated, not proven)" if stated else "")
        for title, changes in (("by module", self.modules), ("by kind", self.kinds)):
            if changes:
                width = max(len(c.name or TOP) for c in changes[:ROWS])
                yield f"{title}, what grew most first"
                yield from (f"  {_line(c, c.name or TOP, width)}" for c in changes[:ROWS])
            if len(changes) > ROWS:
                rest = sum(c.grew for c in changes[ROWS:])
                yield f"  and {len(changes) - ROWS} more, together {signed(rest)}"


@dataclass(frozen=True)
class PlanComparison(Comparison):
    """A Comparison of two plans, which a page can show beside each other.

    steps: the plans, before and after.
    """

    steps: tuple[StepPlan, StepPlan]

    @property
    def html(self) -> str:
        """The page of both plans: one HTML file that loads nothing."""
        from roam.inspect.page import comparison_page

        return comparison_page(self)

    def _repr_html_(self) -> str:
        from roam.inspect.page import in_frame

        return in_frame(self.html)


@overload
def compare(before: StepPlan, after: StepPlan) -> PlanComparison: ...
@overload
def compare(before: StepPlan | Breakdown, after: StepPlan | Breakdown) -> Comparison: ...
def compare(before: StepPlan | Breakdown, after: StepPlan | Breakdown) -> Comparison:
    """Compares two plans, or breakdowns: bytes at their worst moments, and persistent bytes."""
    one, two = (b if isinstance(b, Breakdown) else breakdown(b) for b in (before, after))
    if isinstance(before, StepPlan) and isinstance(after, StepPlan):
        return PlanComparison(one, two, (before, after))
    return Comparison(one, two)


def signed(size: int) -> str:
    return f"{'−' if size < 0 else '+'}{show_size(abs(size))}"


def _sums(found: Breakdown, field: str) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for part in found.parts:
        sizes[getattr(part, field)] += part.size
    return sizes


def _line(change: Change, name: str, width: int) -> str:
    share = f", {change.grew / change.before:+.1%}" if change.before and change.grew else ""
    grew = f"  ({signed(change.grew)}{share})" if change.grew else ""
    return f"{name:{width}}  {show_size(change.before):>11} → {show_size(change.after):>11}{grew}"
