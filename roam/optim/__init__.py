"""Optimizers that fold gradients into their state while the backward still runs."""

from roam.core.errors import OptimizerError
from roam.lowering.compile_options import hold_optimizers_weakly
from roam.optim.adama import AdamA
from roam.optim.slim import SlimAdamA
from roam.optim.slim_rules import SlimRules, static_rules
from roam.optim.snr import SnrMeasurement

__all__ = ["AdamA", "OptimizerError", "SlimAdamA", "SlimRules", "SnrMeasurement", "static_rules"]

hold_optimizers_weakly()
