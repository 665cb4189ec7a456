"""Logs a plan: a line in the logger `roam`, and an artifact in the files of TORCH_TRACE.

`TORCH_LOGS=roam` shows the messages as it shows those of torch, `TORCH_LOGS=+roam` also debug
messages. For Python's logging module `roam` is an ordinary logger. The tool tlparse shows the
artifact beside the compiled graph.
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
    """Logs a plan, adds it to torch's trace, and warns if other ranks may have other plans.

    Args:
        graph: the record of the graph, with its plan.
        compile_id: dynamo's identifier of the graph; None if there is none.
    """
    _warn_if_ranks_differ(graph)
    log.info("%s", graph)
    step = StepPlan((graph,))
    log.debug("%s", step)
    trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": ARTIFACT, "encoding": "json"},
        payload_fn=lambda: step.to_json().decode(),
        # a graph that is planned at its first run, after dynamo has finished, has no trace id
        expect_trace_id=False,
        compile_id=compile_id,
    )


def _warn_if_ranks_differ(graph: GraphRecord) -> None:
    """Warns if several ranks train and a time limit ended this rank's search for a plan.

    Another rank may then have searched further and found another plan. A search that ends after a
    counted amount of work finds the same plan on every rank.
    """
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
