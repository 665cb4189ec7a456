"""Layout: decides at which address each buffer lies.

Read `arena` first: it is the planner's layout. `greedy_fits` places rectangles one after another,
`eviction` chooses the buffers that leave the arena, `saved_layout` makes blocks for saved tensors
only. `packing/` is an exact search, for `roam layout`.
"""
