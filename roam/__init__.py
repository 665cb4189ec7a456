"""roam: a memory planner for PyTorch training.

torch.compile(model, backend="roam") needs no import; these names are for looking and steering.
"""

from roam.core.errors import RoamError, UnplannedWarning
from roam.core.plan import Plan
from roam.core.problem import Problem
from roam.inspect.measure import Measurement, measure_peak
from roam.inspect.report import Report, report, reset_report
from roam.lowering.memory import release

__all__ = [
    "Measurement",
    "Plan",
    "Problem",
    "Report",
    "RoamError",
    "UnplannedWarning",
    "measure_peak",
    "release",
    "report",
    "reset_report",
]
