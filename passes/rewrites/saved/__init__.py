"""Saved tensors kept smaller: the interface of such rewrites, and the pass that applies them.

`rewrite` says what a rewrite is, `shrink` is the pass, `tensors` finds what is saved and who reads
it, `exact` tells what the backward recomputes for next to nothing and `noise` draws at random.
"""

from roam.passes.rewrites.saved.exact import ExactRecompute as ExactRecompute
from roam.passes.rewrites.saved.noise import Noise as Noise
from roam.passes.rewrites.saved.rewrite import Keep as Keep
from roam.passes.rewrites.saved.rewrite import Method as Method
from roam.passes.rewrites.saved.rewrite import Replaced as Replaced
from roam.passes.rewrites.saved.rewrite import Restored as Restored
from roam.passes.rewrites.saved.rewrite import Result as Result
from roam.passes.rewrites.saved.rewrite import SavedRewrite as SavedRewrite
from roam.passes.rewrites.saved.rewrite import Whole as Whole
from roam.passes.rewrites.saved.shrink import ShrinkSaved as ShrinkSaved
from roam.passes.rewrites.saved.shrink import Told as Told
from roam.passes.rewrites.saved.tensors import Reader as Reader
from roam.passes.rewrites.saved.tensors import SavedTensor as SavedTensor
