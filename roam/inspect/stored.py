"""What one graph loads of the optimizers' states that lie in a tier, and how much that is a day."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from roam.core.errors import FileFormatError
from roam.core.machine import Bytes, Seconds
from roam.core.sizes import show_size
from roam.inspect.moved import DAY
from roam.inspect.seconds import show_seconds


@dataclass(frozen=True)
class Stored:
    """The states of optimizers that lie in a tier between steps, as one graph uses them.

    Attributes:
        tier: the path of its folder.
        tensors: how many the graph loads.
        read: bytes that it loads in each step, but for the first one, where all are zero.
        written: bytes that it stores in each step.
        step: seconds of the graph by the costs of its ops, with what it waits.
        stalled: those of them in which it waits for the tier, activations included.
        write: bytes a second to the tier, as measured or described.
        back: bytes a second from it.
    """

    tier: str
    tensors: int
    read: Bytes
    written: Bytes
    step: Seconds
    stalled: Seconds
    write: float
    back: float

    def check(self, graph: str) -> None:
        """Raises FileFormatError for figures that cannot be, as a spoiled file may have."""
        figures = (self.tensors, self.read, self.written, self.step, self.stalled)
        if not all(0 <= n < inf for n in (*figures, self.write, self.back)):
            raise FileFormatError(f"graph {graph!r} of the step plan states impossible transfers")

    def lines(self) -> list[str]:
        """Returns one line about all, and one about time and wear."""
        found = [
            f"optimizer states in {self.tier}: {self.tensors} "
            f"tensor{'' if self.tensors == 1 else 's'}, {show_size(self.read)} read and "
            f"{show_size(self.written)} written in each step"
        ]
        if self.step:
            a_day = int(self.written * DAY / self.step)
            found.append(
                f"  by the costs of its ops, at {show_size(int(self.back))} a second read and "
                f"{show_size(int(self.write))} written, the graph takes {show_seconds(self.step)}, "
                f"{show_seconds(self.stalled)} of it waiting for the tier; at that pace "
                f"{show_size(a_day)} are written a day"
            )
        return found
