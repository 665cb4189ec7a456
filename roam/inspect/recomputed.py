"""What a graph runs again, for a budget or without one: by module, its cost and what it saves."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from roam.core.errors import FileFormatError
from roam.core.machine import Bytes, Seconds
from roam.core.sizes import show_size
from roam.inspect.seconds import show_seconds

SHOWN = 12  # modules that are printed


@dataclass(frozen=True)
class Again:
    """What runs again of one module.

    Attributes:
        module: its path, '' for ops of none.
        ops: the number of copies.
        seconds: what they take.
        saved: bytes of its tensors that the forward does not keep for the backward.
    """

    module: str
    ops: int
    seconds: Seconds
    saved: Bytes


@dataclass(frozen=True)
class Recomputed:
    """What one graph runs again.

    Attributes:
        budget: as the user wrote it; empty without one: then what runs again hardly costs time, or
            aot_eager runs it again, too, and the costs are those of a usual machine.
        limit: the most bytes that the graph may allocate; 0 without a budget.
        without: bytes that it would allocate if nothing ran again.
        step: seconds of all its ops if nothing ran again.
        bound: seconds below which no recomputation keeps the budget, by the same costs.
        modules: what runs again, the most expensive first.
        left: bytes that it would leave from its forward to its backward if nothing ran again.
        beside: bytes that other graphs held when it was compiled; they are no part of `limit`.
    """

    budget: str
    limit: Bytes
    without: Bytes
    step: Seconds
    bound: Seconds = 0.0
    modules: tuple[Again, ...] = ()
    left: Bytes = 0
    beside: Bytes = 0

    def check(self, graph: str) -> None:
        """Raises FileFormatError for figures that cannot be, as a spoiled file may have."""
        figures = [self.without, self.step, self.bound, self.left, self.beside]
        figures += [n for m in self.modules for n in (m.ops, m.seconds, m.saved)]
        if not all(0 <= n < inf for n in figures):
            raise FileFormatError(f"graph {graph!r} of the step plan states an impossible budget")

    @property
    def seconds(self) -> Seconds:
        """What all copies take."""
        return sum(m.seconds for m in self.modules)

    @property
    def saved(self) -> Bytes:
        return sum(m.saved for m in self.modules)

    def lines(self) -> list[str]:
        """Returns one line about all, and one for each of the most expensive modules."""
        again = runs_again(sum(m.ops for m in self.modules))
        kept = f"{show_size(self.saved)} are not kept"
        cost = f"{show_seconds(self.seconds)}{self._share(self.seconds)}"
        if self.budget:
            head = (
                f"budget {self.budget}: at most {show_size(self.limit)} transient, "
                f"{show_size(self.without)} without it; {again}, {cost} (at least "
                f"{show_seconds(self.bound)} by these costs), and {kept}"
            )
        else:
            head = (
                f"no budget: {again}, {cost} by the costs of a usual machine, and {kept}; "
                f"{show_size(self.without)} transient if all were"
            )
        found = [head]
        found += [
            f"  {show_seconds(m.seconds):>9}{self._share(m.seconds)} {show_size(m.saved):>12}  "
            f"{m.module or 'no module'} ({m.ops} op{'' if m.ops == 1 else 's'})"
            for m in self.modules[:SHOWN]
        ]
        if more := self.modules[SHOWN:]:
            found.append(f"  {show_seconds(sum(m.seconds for m in more)):>9}  {len(more)} more")
        return found

    def _share(self, seconds: Seconds) -> str:
        return f" = {seconds / self.step:.2%} of the step" if self.step else ""


def runs_again(ops: int) -> str:
    return "1 op runs again" if ops == 1 else f"{ops:,} ops run again"
