"""The split of a group of ops into blocks of rows. `rewrite` is the pass."""

from roam.passes.rewrites.split.blocks import META as META
from roam.passes.rewrites.split.blocks import Label as Label
from roam.passes.rewrites.split.composites import SplitComposites as SplitComposites
from roam.passes.rewrites.split.rewrite import Split as Split
