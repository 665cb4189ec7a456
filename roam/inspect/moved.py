"""What one graph moves to a tier in each step: by module, and how much that is a day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from roam.core.errors import FileFormatError
from roam.core.machine import Bytes, Seconds
from roam.core.sizes import show_size
from roam.inspect.seconds import show_seconds

SHOWN = 12  # modules that are printed
DAY: Seconds = 86_400


@dataclass(frozen=True)
class MovedOf:
    """What is moved of one module.

    Attributes:
        module: its path, '' for tensors of none.
        tensors: how many.
        nbytes: of them.
    """

    module: str
    tensors: int
    nbytes: Bytes


@dataclass(frozen=True)
class Moved:
    """What one graph moves to a tier and back.

    Attributes:
        tier: the path of its folder.
        modules: what is moved, the most bytes first.
        without: bytes that the graph would allocate if nothing moved.
        bound: bytes below which no transfers without a stall bring the order of the ops.
        step: seconds of all its ops without any that run again, by their costs.
        stall: seconds for which ops wait for transfers, in a simulation.
        write: bytes a second to the tier, as measured or described.
        read: bytes a second from it.
    """

    tier: str
    modules: tuple[MovedOf, ...]
    without: Bytes
    bound: Bytes
    step: Seconds
    write: float
    read: float
    stall: Seconds = 0.0

    def check(self, graph: str) -> None:
        """Raises FileFormatError for figures that cannot be, as a spoiled file may have."""
        figures = [self.without, self.bound, self.step, self.stall, self.write, self.read]
        figures += [n for m in self.modules for n in (m.tensors, m.nbytes)]
        if not all(0 <= n < inf for n in figures):
            raise FileFormatError(f"graph {graph!r} of the step plan states impossible transfers")

    @property
    def written(self) -> Bytes:
        """Bytes that are written in each step, and read."""
        return sum(m.nbytes for m in self.modules)

    def lines(self) -> list[str]:
        """Returns one line about all, one about wear, and one for each of the largest modules."""
        count = sum(m.tensors for m in self.modules)
        found = [
            f"moved to {self.tier}: {count} tensor{'' if count == 1 else 's'}, "
            f"{show_size(self.written)} written and read in each step, beside its ops; "
            f"{show_size(self.without)} transient if nothing moved, and at least "
            f"{show_size(self.bound)} in this order whatever moves without a stall"
        ]
        if self.stall:
            found.append(f"  ops wait {show_seconds(self.stall)} for transfers in each step")
        if self.step:
            step = self.step + self.stall
            a_day = int(self.written * DAY / step)
            found.append(f"  at {show_seconds(step)} a step, {show_size(a_day)} are written a day")
        found += [
            f"  {show_size(m.nbytes):>12}  {m.module or 'no module'} "
            f"({m.tensors} tensor{'' if m.tensors == 1 else 's'})"
            for m in self.modules[:SHOWN]
        ]
        if more := self.modules[SHOWN:]:
            found.append(f"  {show_size(sum(m.nbytes for m in more)):>12}  {len(more)} more")
        return found


def by_module(sizes: Iterable[tuple[str, Bytes]]) -> tuple[MovedOf, ...]:
    """Adds up what is moved of each module. `sizes`: for each tensor its module, and its bytes."""
    count: dict[str, int] = defaultdict(int)
    nbytes: dict[str, int] = defaultdict(int)
    for module, size in sizes:
        count[module] += 1
        nbytes[module] += size
    modules = (MovedOf(name, count[name], nbytes[name]) for name in count)
    return tuple(sorted(modules, key=lambda m: (-m.nbytes, m.module)))
