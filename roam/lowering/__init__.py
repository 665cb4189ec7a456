"""Lowerings: a captured graph becomes kernels that run in a planned order and planned memory.

    lowering     kernels                          compiled by
    inductor/    what Inductor fuses              compile_fx, which calls the planner back
    aten/        the graph's own ATen operators   AOTAutograd, planned at the first forward

The step driver (`roam.step.driver`) runs the kernels of both lowerings through the interface in
`protocol`. `table` finds the lowering that the options ask for. To add a lowering, write a package
with a module `entry` that has a `LOWERING`, and add a row to `roam.options.LOWERINGS`. `trace` logs
plans, also to torch's traces.
"""
