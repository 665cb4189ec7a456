"""What the user's rewrites keep of saved tensors in place of the tensors, by module."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from roam.core.errors import FileFormatError
from roam.core.machine import Bytes
from roam.core.shrunk import LeftOut, Shrunk
from roam.core.sizes import show_size

SHOWN = 12  # modules that are printed, and tensors that stay whole


@dataclass(frozen=True)
class ShrunkSaved:
    """What rewrites keep of the saved tensors of one graph.

    tensors: those that a rewrite looks for, also those that stay whole.
    left_out: rewrites that change nothing, since they failed or found nothing.
    """

    tensors: tuple[Shrunk, ...]
    left_out: tuple[LeftOut, ...] = ()

    @staticmethod
    def of(tensors: tuple[Shrunk, ...], left_out: tuple[LeftOut, ...] = ()) -> ShrunkSaved | None:
        """Returns None if there is nothing to tell."""
        return ShrunkSaved(tensors, left_out) if tensors or left_out else None

    @property
    def removed(self) -> Bytes:
        """Bytes that are saved no more."""
        return sum(s.before - s.after for s in self.tensors)

    def check(self, graph: str) -> None:
        """Raises FileFormatError for figures that cannot be, as a spoiled file may have."""
        if any(min(s.before, s.after) < 0 for s in self.tensors):
            raise FileFormatError(f"graph {graph!r} of the step plan states impossible rewrites")

    def lines(self) -> list[str]:
        """Returns a line about all, and one about each module, what stays whole and is left out."""
        if not self.tensors:
            return self.left_out_lines()
        before, after, whole = Counter[str](), Counter[str](), Counter[str]()
        for each in self.tensors:
            module = f"{each.module or 'no module'}, by {each.rewrite}"
            if each.reason:
                whole[f"{module}: {each.reason}"] += each.before
            else:
                before[module] += each.before
                after[module] += each.after
        found = [
            f"saved tensors kept smaller: {show_size(self.removed)} less, "
            f"{show_size(after.total())} in place of it"
        ]
        most = sorted(after, key=lambda m: after[m] - before[m])
        found += [
            f"  {show_size(before[m]):>12} as {show_size(after[m])}  {m}" for m in most[:SHOWN]
        ]
        if more := most[SHOWN:]:
            rest = sum(before[m] for m in more), sum(after[m] for m in more)
            sizes = f"{show_size(rest[0]):>12} as {show_size(rest[1])}"
            found.append(f"  {sizes}  in {len(more)} more modules")
        stays = whole.most_common(SHOWN)
        found += [f"  {show_size(size):>12} stays whole  {why}" for why, size in stays]
        if len(whole) > SHOWN:
            found.append(f"  {len(whole) - SHOWN} more modules stay whole")
        return found + self.left_out_lines()

    def left_out_lines(self) -> list[str]:
        """Returns a line about each rewrite that changes nothing."""
        return [f"rewrite {r.rewrite} is left out: {r.reason}" for r in self.left_out]
