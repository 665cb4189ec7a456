"""The `aten` lowering: runs a graph's own operators in a planned order, in planned memory.

Read `kernels` first: it draws the path of a graph. `emit` turns a plan into a graph of operators
for each phase (forward, backward), and these graphs into Python code by means of `boxed_code`.
`lowered` holds the resulting callables. `tier_link` is a folder that tensors may be moved to.
`plain` runs a graph without a plan. `whole_step` handles a step that was captured as one graph with
its backward. `entry` defines the object that stands for this lowering in `roam.lowering.table`.
"""
