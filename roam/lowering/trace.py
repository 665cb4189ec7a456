"""What is said about a plan: a line in the log `roam`, and an artifact in TORCH_TRACE's files.

`TORCH_LOGS=roam` shows the log like those of torch (`+roam` with debug messages); to the logging
module it is a logger like any other. tlparse shows the artifact beside the compiled graph.
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
    """Says what was planned, to whoever listens. compile_id: of the graph, as dynamo counts."""
    log.info("%s", graph)
    step = StepPlan((graph,))
    log.debug("%s", step)
    trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": ARTIFACT, "encoding": "json"},
        payload_fn=lambda: step.to_json().decode(),
        expect_trace_id=False,  # planned when the graph first runs: dynamo has long finished
        compile_id=compile_id,
    )
