"""Optimizers that fold gradients into their state while the backward still runs."""

from roam.core.errors import OptimizerError
from roam.optim.adama import AdamA
from roam.optim.compile_options import keep_options_as
from roam.optim.in_options import with_handle
from roam.optim.slim import SlimAdamA
from roam.optim.slim_rules import SlimRules, static_rules
from roam.optim.snr import SnrMeasurement

__all__ = ["AdamA", "OptimizerError", "SlimAdamA", "SlimRules", "SnrMeasurement", "static_rules"]

keep_options_as(with_handle)
