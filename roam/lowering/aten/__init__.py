"""The `aten` lowering: a graph's own operators, in a planned order and a planned arena.

Read `kernels` first: it draws the path of a graph. `emit` turns a plan into a graph of operators
for each phase, and these graphs into Python code (`boxed_code`). `lowered` is the result. `plain`
runs a graph without a plan. `whole_step` handles a step that was captured as one graph with its
backward. `entry` offers the package as a lowering.
"""
