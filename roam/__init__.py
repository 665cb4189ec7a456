"""roam: a memory planner for PyTorch training.

torch.compile(model, backend="roam") needs no import; these names are for looking and steering.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from roam.core.described_machines import Machine
from roam.core.errors import RoamError, UnplannedWarning
from roam.core.offload_to import OffloadTo
from roam.core.plan import Plan
from roam.core.problem import Problem

if TYPE_CHECKING:
    from roam import optim
    from roam.inspect.compare import compare
    from roam.inspect.measure import Measurement, measure_peak
    from roam.inspect.report import Report, report, reset_report
    from roam.inspect.step_plan import StepPlan
    from roam.offline import plan
    from roam.runtime.blocks import release
    from roam.whole_step import compile_step

__all__ = [
    "Machine",
    "Measurement",
    "OffloadTo",
    "Plan",
    "Problem",
    "Report",
    "RoamError",
    "StepPlan",
    "UnplannedWarning",
    "compare",
    "compile_step",
    "measure_peak",
    "optim",
    "plan",
    "release",
    "report",
    "reset_report",
]

_LAZY = {  # imported when first asked for: a program that looks at plans does not wait for torch
    "Measurement": "roam.inspect.measure",
    "Report": "roam.inspect.report",
    "StepPlan": "roam.inspect.step_plan",
    "compare": "roam.inspect.compare",
    "compile_step": "roam.whole_step",
    "measure_peak": "roam.inspect.measure",
    "plan": "roam.offline",
    "release": "roam.runtime.blocks",
    "report": "roam.inspect.report",
    "reset_report": "roam.inspect.report",
}


def __getattr__(name: str) -> Any:
    if name == "optim":
        return import_module("roam.optim")
    if name not in _LAZY:
        raise AttributeError(f"module 'roam' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
