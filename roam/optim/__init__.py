"""Optimizers that fold each gradient into their state during the backward, and then free it.

    fold                           FoldRule: how one gradient is absorbed. Read it first.
    adama, slim                    the two rules, with their optimizers AdamA and SlimAdamA
    slim_rules, snr                which second moments SlimAdamA averages: by a table, or measured
    folding                        FoldingOptimizer: counts micro-batches and calls the rule
    ownership, hooks, groups       which parameters belong to an optimizer; hooks that pass it the
                                   gradients that no compiled graph has folded
    handle, in_options,            how torch.compile's options name an optimizer without keeping
    compile_options                the optimizer alive
    notices, clipping,             warnings and errors for training code that expects gradients to
    data_parallel, refusals        be there after the backward
    states, state_dicts            where states are; how they are saved, loaded and copied
    stored_states                  large states in a file between steps

Other packages of roam use `FoldingOptimizer`, `OptimizerHandle` and `owner_of` (which optimizer
folds the gradient of a parameter). To write an optimizer of your own, write a FoldRule and a
FoldingOptimizer that uses it.
"""

from roam.core.errors import OptimizerError
from roam.optim.adama import AdamA
from roam.optim.compile_options import keep_options_as
from roam.optim.in_options import with_handle
from roam.optim.slim import SlimAdamA
from roam.optim.slim_rules import SlimRules, static_rules
from roam.optim.snr import SnrMeasurement

__all__ = ["AdamA", "OptimizerError", "SlimAdamA", "SlimRules", "SnrMeasurement", "static_rules"]

keep_options_as(with_handle)
