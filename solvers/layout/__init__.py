"""Layout: decides at which address each buffer lies.

Read `arena` first: it lays out all buffers of a step. It uses `greedy_fits`, which places buffers
one after another (`occupied` stores the addresses that are taken), `sections`, which cuts the arena
into blocks, and `eviction`, which takes buffers out of the arena again if its blocks waste too
much. `saved_layout` makes blocks for saved tensors only. `placement` defines the two placements
that use `arena` and `saved_layout`; a lowering chooses one. `packing/` searches for the lowest
layout and proves it; the command `roam layout` uses it.
"""
