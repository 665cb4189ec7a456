"""Tracks what graphs with a budget hold between their runs: saved tensors, outputs, gradients.

    forward 1 ── forward 2 ── backward 2 ── backward 1
        │            held beside both:          │
        └─ saved 1, outputs ────────────────────┤
                                                └─ held beside it: gradients of graph 2

A mark on a tensor's memory lives as long as the memory. So marks tell at every moment what is held,
whoever holds it: autograd, a variable of the user's, `.grad`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from math import inf
from typing import Any

from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import is_fake

from roam.core.budget import Beside
from roam.core.machine import Bytes
from roam.core.sizes import show_size

_numbers = count()


class What(StrEnum):
    """What a run of a graph leaves behind."""

    SAVED = "saved for a backward"
    OUTPUT = "outputs"
    GRADIENT = "gradients"


@dataclass(eq=False)
class Run:
    """A forward of a graph that ran or begins to run, and the backward that may follow.

    Attributes:
        graph: the name of the graph.
        share: what its plan takes, as the lowering keeps it.
        without: bytes that the forward would leave behind without a budget.
        persistent: bytes of the graph's parameters, states and inputs, by address; those whose
            address is unknown have the key 0. Empty if nobody asks.
        most: bytes that it and everything beside it may take. If the budget is a share, it grows
            with each graph of the step that is seen.
        taken: bytes that its forward took, with everything beside it.
        between: bytes that other runs took at most since its forward, beyond what there was then;
            inf if one of them was of the same graph. Noted only if `persistent` is known.
        spare: bytes that were left of the budget while those other runs took most. Noted likewise.
        number: tells what came first.
        done: whether its backward has run for the last time.
    """

    graph: str
    share: Any = None
    without: Bytes = 0
    persistent: Mapping[int, Bytes] = field(default_factory=dict)
    most: Bytes = 0
    taken: Bytes = 0
    between: float = 0
    spare: float = inf
    number: int = field(default_factory=_numbers.__next__)
    done: bool = False


@dataclass(eq=False)
class Mark:
    """Memory that a run left behind. Hangs on the memory and is freed with it."""

    run: Run
    what: What
    nbytes: Bytes
    number: int = field(default_factory=_numbers.__next__)


_marks: weakref.WeakSet[Mark] = weakref.WeakSet()
_lock = threading.Lock()


def hold(run: Run, what: What, tensors: Iterable[Tensor]) -> None:
    """Marks the memory of tensors that a run made. Memory that it has marked before keeps that."""
    with _lock:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            known = mark_of(storage)
            if known is None or known.run is not run:
                mark = Mark(run, what, storage.nbytes())
                storage.roam_held = mark  # type: ignore[attr-defined]
                _marks.add(mark)


def mark_of(storage: UntypedStorage) -> Mark | None:
    found: Mark | None = getattr(storage, "roam_held", None)
    return found


def run_of(graph: str, made: Iterable[Tensor]) -> Run | None:
    """Returns the run whose backward begins; None if no mark tells.

    Args:
        graph: the name of the graph.
        made: what its forward made of the backward's inputs. If no mark is left there, it is the
            latest of the graph's runs that had no backward yet.
    """
    marks = (mark_of(tensor.untyped_storage()) for tensor in made)
    found = next((m.run for m in marks if m is not None), None)
    if found is None:
        with _lock:
            runs = [m.run for m in _marks if m.run.graph == graph and not m.run.done]
        found = max(runs, key=lambda r: r.number, default=None)
    return found


def persistent(args: Sequence[Any], of_graph: Bytes) -> dict[int, Bytes]:
    """Returns the bytes of a graph's inputs by address; under 0 its states, which are no inputs.

    Leaves out inputs that a graph has made: they are counted by the marks on their memory.

    Fake inputs have no address, and count as states: the graphs of a compiled
    DistributedDataParallel are compiled for fake ones.

    Args:
        args: the inputs.
        of_graph: bytes of all that is persistent.
    """
    real = (a for a in args if isinstance(a, Tensor) and not is_fake(a))
    storages = {s.data_ptr(): s for s in (a.untyped_storage() for a in real)}
    states = max(0, of_graph - sum(s.nbytes() for s in storages.values()))
    users = {p: s.nbytes() for p, s in storages.items() if mark_of(s) is None}
    return {**users, 0: states}


@dataclass(frozen=True)
class Held:
    """What there is beside a run.

    Attributes:
        marks: the memory.
        pending: the other runs whose forward saved something that is still there.
    """

    marks: tuple[Mark, ...]
    pending: tuple[Run, ...]

    @staticmethod
    def beside(run: Run, *, earlier: bool) -> Held:
        """Looks at all memory that is marked now.

        Leaves out what the run's own plan counts: what its forward made, and memory that a kept
        arena lends to each run of a graph in turn.

        Args:
            run: the run.
            earlier: whether outputs and gradients count that were there before the first of the
                pending forwards began. They are no part of the present step.
        """
        with _lock:
            marks = [m for m in _marks if m.run is not run or m.what is What.GRADIENT]
        marks = [m for m in marks if not (m.run.done and m.run.graph == run.graph and _saved(m))]
        pending = {m.run: None for m in marks if _saved(m) and not m.run.done}
        since = min(r.number for r in (run, *pending))
        found = (m for m in marks if earlier or _saved(m) or m.number > since)
        runs = sorted(pending, key=lambda r: r.number)
        return Held(tuple(sorted(found, key=lambda m: m.number)), tuple(runs))

    def to_budget(
        self, run: Run, inputs: Iterable[Any] = (), planned: Iterable[Tensor] = ()
    ) -> Beside:
        """Returns the sums that a budget needs.

        Args:
            run: the run beside which this is.
            inputs: of the run. They are no transient memory if `run.persistent` has them.
            planned: those inputs that its plan counts as transient memory.
        """
        known = dict(run.persistent)
        own = [t for t in inputs if isinstance(t, Tensor)] if known else []
        counted = {mark_of(t.untyped_storage()) for t in (*own, *planned)}
        marks = [m for m in self.marks if m not in counted]
        others: dict[tuple[str, int] | int, Bytes] = {}
        for other in {*self.pending, *(m.run for m in self.marks)} - {run}:
            for address, nbytes in other.persistent.items():
                if address == 0 and other.graph != run.graph:
                    others[other.graph, 0] = nbytes
                elif address not in known:
                    others[address] = nbytes
        return Beside(
            now=sum(m.nbytes for m in marks),
            without=sum(r.without for r in self.pending),
            persistent=sum(others.values()),
        )

    def until(self, run: Run) -> Held:
        """Returns what of this there was when the forward of a run had run."""
        marks = (m for m in self.marks if m.run is run or m.number < run.number)
        return Held(tuple(marks), tuple(r for r in self.pending if r.number < run.number))

    def __str__(self) -> str:
        """Names the graphs and what they hold."""
        sizes: dict[str, Bytes] = {}
        for m in self.marks:
            key = f"{m.what.value}: {m.run.graph}"
            sizes[key] = sizes.get(key, 0) + m.nbytes
        return ", ".join(f"{show_size(n)} {key}" for key, n in sizes.items()) or "nothing"


def _saved(mark: Mark) -> bool:
    return mark.what is What.SAVED
