"""Logs a plan: a line in the logger `roam`, and an artifact in TORCH_TRACE's files.

`TORCH_LOGS=roam` shows the log like those of torch (`+roam` with debug messages). To the logging
module it is an ordinary logger. tlparse shows the artifact beside the compiled graph.
"""

from __future__ import annotations

import logging

from torch._guards import CompileId
from torch._logging._internal import trace_structured

from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan

log = logging.getLogger("roam")
ARTIFACT = "roam_plan"


def tell(graph: GraphRecord, compile_id: CompileId | None) -> None:
    """Logs what was planned, and adds the artifact. compile_id: dynamo's number of the graph."""
    log.info("%s", graph)
    step = StepPlan((graph,))
    log.debug("%s", step)
    trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": ARTIFACT, "encoding": "json"},
        payload_fn=lambda: step.to_json().decode(),
        expect_trace_id=False,  # planned when the graph first runs, when dynamo has finished
        compile_id=compile_id,
    )
