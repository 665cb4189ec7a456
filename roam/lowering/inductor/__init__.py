"""Inductor's kernels in planned orders.

    dynamo's graph ── compile_fx ──┬── forward ─────────── scheduler ── order ── code
    entry                          └── backward ── folds ── scheduler ── order ── code
                                                            fuses       problem, planner
                                                                        saved_code, kernels, notes

Read `entry`, then `order`: Inductor calls it with fused nodes, which `problem` reads (`in_place`,
`inner_buffers`, `scratch`). `folds` puts an optimizer's folds into a backward, `saved_code` places
what the forward saves, `notes` carries plans through Inductor's caches, `offline` stops before code
is generated. `needs` asks, cheaply, whether Inductor works on a device.
"""
