"""The `aten` lowering: a graph's own operators, in a planned order and a planned arena.

Read `kernels` first: it draws the path of a graph. `emit` turns a plan into two graphs of
operators, and those into Python. `plain` runs a graph without a plan, `whole_step` is the one graph
of a step that was captured with its backward, `entry` the lowering for the table.
"""
