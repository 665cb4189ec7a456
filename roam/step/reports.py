"""Reports, logs and warnings about the graphs of a running program."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field

from torch._guards import CompileId

from roam.core.errors import UnplannedWarning
from roam.inspect.record import GraphRecord
from roam.inspect.report import count_graph, record
from roam.lowering.trace import tell

log = logging.getLogger("roam")


@dataclass
class RunningReports:
    """Adds the plans of one captured graph to `roam.report()`.

    Attributes:
        compile_id: dynamo's identifier of the graph, for torch's structured trace.
        number: the graph's place in the report, whichever graph's backward is compiled first.
    """

    compile_id: CompileId | None = None
    number: int = field(default_factory=count_graph)

    def planned(self, graph: GraphRecord, instead_of: GraphRecord | None = None) -> None:
        record(graph, self.number, instead_of)
        tell(graph, self.compile_id)

    def unplanned(self, graph: GraphRecord, error: Exception, text: str) -> None:
        record(graph, self.number)
        log.debug("%s could not be planned", graph.name, exc_info=error)
        warnings.warn(text, UnplannedWarning, stacklevel=3)
