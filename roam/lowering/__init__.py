"""Lowerings, which turn a captured graph into kernels that run in planned order and memory.

    lowering     kernels                          compiled by
    inductor/    kernels that Inductor fuses      compile_fx, which calls roam's planner
    aten/        the graph's own ATen operators   AOTAutograd; planned at the first forward

The step driver (`roam.step.driver`) runs the kernels of both lowerings through the interface in
`protocol`. `table` finds the lowering that the options ask for. To add a lowering, write a package
whose module `entry` defines `LOWERING` (a `protocol.Lowering`), and add a row to
`roam.options.LOWERINGS`. `trace` logs plans, and adds them to torch's traces.
"""
