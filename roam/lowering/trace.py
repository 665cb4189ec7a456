"""Logs a plan: a line in the logger `roam`, and an artifact in TORCH_TRACE's files.

`TORCH_LOGS=roam` shows the log like those of torch (`+roam` with debug messages). To the logging
module it is an ordinary logger. tlparse shows the artifact beside the compiled graph.
"""

from __future__ import annotations

import logging
import warnings

import torch
from torch._guards import CompileId
from torch._logging._internal import trace_structured

from roam.core.errors import CutShortWarning
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan

log = logging.getLogger("roam")
ARTIFACT = "roam_plan"


def tell(graph: GraphRecord, compile_id: CompileId | None) -> None:
    """Logs what was planned, adds the artifact, and warns if ranks may have got different plans.

    compile_id: dynamo's number of the graph.
    """
    _warn_if_ranks_differ(graph)
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


def _warn_if_ranks_differ(graph: GraphRecord) -> None:
    """Ranks count the same work, but their clocks may end it at different moments."""
    if graph.plan is None or not graph.plan.cut_short:
        return
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if (ranks := distributed.get_world_size()) > 1:
        text = (
            f"the clock cut the plan of {graph.name} short: the {ranks} ranks may run different "
            "orders. A lower planning_seconds ends the search by counted work, the same on all"
        )
        warnings.warn(text, CutShortWarning, stacklevel=2)
