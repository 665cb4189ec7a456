"""Compiles graphs with Inductor, whose kernels then run in a planned order.

    dynamo's graph ── compile_fx ──┬── forward ─────────── scheduler ── order ── code
    entry                          └── backward ── folds ── scheduler ── order ── code
                                                            fuses       problem, planner,
                                                                        saved_code, notes,
                                                                        shared_functions

Read `entry`, then `kernels` (one captured graph), then `order`: Inductor calls it with the fused
nodes of a graph. `problem` reads a Problem off them (`in_place`, `inner_buffers`, `scratch`).
`rewriting` runs rewrites on the joint graph. `folds` puts an optimizer's folds into a backward,
`saved_code` places saved tensors, `shared_functions` decides which nodes share a C++ function,
`notes` carries plans through Inductor's caches. `offline` plans without generating code. `needs`
tells quickly whether Inductor works on a device.
"""
