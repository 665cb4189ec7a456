"""Layout: decides at which address each buffer lies.

Read `arena` first: it lays out all buffers of a step. It uses `greedy_fits`, which places buffers
one after another, and `eviction`, which takes buffers out of the arena again if the arena's blocks
waste too much. `saved_layout` makes blocks for saved tensors only. A `placement` chooses `arena` or
`saved_layout`. `packing/` searches for the lowest layout and proves it; the command `roam layout`
uses it.
"""
