"""Layout: where each buffer lies. `arena` is the planner's; `packing/` is exact.

`greedy_fits` places rectangles one after another, `eviction` says which buffers leave the arena,
`saved_layout` cuts blocks for what the forward saves.
"""
