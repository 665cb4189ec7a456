"""Splits a group of ops into blocks of rows. `rewrite` is the pass: read it first.

`group` finds groups of ops, by the rules in `rule_table`, `row_rules` and `sum_rules`: how an
operator runs on some of the rows. `worth` estimates whether a split lowers the peak.
"""

from roam.passes.rewrites.split.blocks import META as META
from roam.passes.rewrites.split.blocks import Label as Label
from roam.passes.rewrites.split.composites import SplitComposites as SplitComposites
from roam.passes.rewrites.split.rewrite import Split as Split
