"""Optimizers that fold each gradient into their state during the backward, and then free it.

    fold                           FoldRule: how one gradient is absorbed. Read it first.
    adama, slim, sgd, lion,        one optimizer each: a rule, and the optimizer that follows it
    adafactor, adalomo, came,
    muon, scion, galore, adam_mini
    adam, blocks, fused,           building blocks of rules: Adam's formulas, cutting tensors into
    factored, orthogonal,          blocks, torch's fused kernels, factored second moments, the
    eight_bit, eight_bit_adam      Newton-Schulz iteration, 8-bit states and Adam on them
    formula                        what a rule does with a gradient, as operators of a graph
    elements, means                formulas that run as one kernel, means of squares
    max_norm                       clips gradients while they are folded, or the update in step()
    scratch                        measures the bytes that a rule allocates, on zeros
    slim_rules, snr                choose the second moments that SlimAdamA averages: by a table, or
                                   by measuring
    folding, absorbing             FoldingOptimizer: absorbs gradients, counts micro-batches, and
                                   calls the rules
    updates                        carries out the folds and updates of the rules
    row_blocks                     counts the blocks of rows in which a gradient comes, and joins
                                   them if needed
    ruled                          derives the constructor's arguments from a rule, and tells plans
                                   what a fold needs
    ownership, hooks, groups,      find the parameters of an optimizer and the rule of each. Hooks
    group_rules                    pass the gradients that no compiled graph has folded to the
                                   optimizer
    handle, in_options,            let torch.compile's options name an optimizer without keeping the
    compile_options                optimizer alive
    changed_values                 tells whether states still fit the values of their group
    ranks, early_sends             combine states over the ranks of data-parallel training
    notices, clipping,             warnings and errors for training code that expects gradients to
    data_parallel, refusals        be there after the backward
    states, state_dicts            make state tensors, and save, load and copy them
    stored_states                  keeps large states in a file between steps

Other packages of roam mostly use `FoldingOptimizer`, `OptimizerHandle` and `owner_of` (which
optimizer folds the gradient of a parameter). To write an optimizer of your own, write a rule and a
FoldingOptimizer that names it: `fold` shows one.
"""

from roam.core.errors import OptimizerError
from roam.optim.adafactor import Adafactor
from roam.optim.adalomo import AdaLomo
from roam.optim.adam_mini import AdamMini, mini_rules
from roam.optim.adama import AdamA, AdamW
from roam.optim.came import CAME
from roam.optim.compile_options import keep_options_as
from roam.optim.galore import GaLore
from roam.optim.in_options import with_handle
from roam.optim.lion import Lion
from roam.optim.muon import Muon
from roam.optim.scion import Scion
from roam.optim.sgd import SGD
from roam.optim.slim import SlimAdamA
from roam.optim.slim_rules import SlimRules, static_rules
from roam.optim.snr import SnrMeasurement

__all__ = [
    "CAME",
    "SGD",
    "AdaLomo",
    "Adafactor",
    "AdamA",
    "AdamMini",
    "AdamW",
    "GaLore",
    "Lion",
    "Muon",
    "OptimizerError",
    "Scion",
    "SlimAdamA",
    "SlimRules",
    "SnrMeasurement",
    "mini_rules",
    "static_rules",
]

keep_options_as(with_handle)
