"""The file of a planned step: its graphs, each with a problem and a plan or why there is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from roam.core.check import check
from roam.core.errors import FileFormatError
from roam.core.origins import NO_ORIGINS, Origins
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.core.strict_json import read_versioned
from roam.inspect.moved import Moved
from roam.inspect.proof import prove
from roam.inspect.recomputed import Recomputed
from roam.inspect.record import GraphRecord, HandedOver
from roam.inspect.shrunk import ShrunkSaved
from roam.inspect.stored import Stored

VERSION = 1


def written(graphs: Iterable[GraphRecord]) -> bytes:
    """Returns the file of a step's graphs."""
    return msgspec.json.encode(_File(VERSION, tuple(map(_Graph.of, graphs))))


def read(text: bytes | str, seconds: float) -> tuple[GraphRecord, ...]:
    """Reads what `written` returns, checks every plan and proves its bound again.

    Args:
        text: the file.
        seconds: for the proofs of each graph.

    Raises:
        FileFormatError, FileVersionError: the text is not exactly such a file.
        GraphMismatchError: a plan belongs to another problem than the one beside it.
        PlanError: a plan is not valid, or states wrong figures or a bound that is refuted.
    """
    file = read_versioned(
        text, _File, what="step plan", key="roam_step", version=VERSION, again="plan again"
    )
    return tuple(graph.record(seconds) for graph in file.graphs)


class _Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GraphRecord in a file, where every field is written. The names are those of the record."""

    name: str
    problem: Problem | None
    plan: Plan | None
    reason: str | None
    lowering: Literal["aten", "inductor"]
    estimated: tuple[str, ...]
    estimated_costs: tuple[str, ...] = ()
    recomputed: Recomputed | None = None
    moved: Moved | None = None
    machine: str = ""
    stored: Stored | None = None
    shrunk: ShrunkSaved | None = None
    origins: Origins = NO_ORIGINS
    handed: tuple[HandedOver, ...] = ()

    @staticmethod
    def of(graph: GraphRecord) -> _Graph:
        return _Graph(*(getattr(graph, name) for name in _Graph.__struct_fields__))

    def record(self, seconds: float) -> GraphRecord:
        """Checks the plan and returns the graph. Raises what `read` raises."""
        for edits in (self.recomputed, self.moved, self.stored, self.shrunk):
            if edits is not None:
                edits.check(self.name)
        planned = self.problem is not None and self.plan is not None
        unplanned = self.problem is None and self.plan is None
        if planned == (self.reason is not None) or not (planned or unplanned):
            raise FileFormatError(
                f"graph {self.name!r} of the step plan has neither a problem and its plan alone "
                "nor a reason alone"
            )
        plan = None
        if self.problem is not None and self.plan is not None:
            check(self.problem, self.plan)
            plan = prove(self.plan.edited(self.problem), self.plan, seconds)
        return GraphRecord(**{**msgspec.structs.asdict(self), "plan": plan})


class _File(msgspec.Struct, forbid_unknown_fields=True):
    roam_step: int
    graphs: tuple[_Graph, ...]
