"""Capture: turns FX graphs into a Problem, with sizes, scratch space and names.

Read `fx_problem` first: it draws what becomes of each node. `symbolic_sizes` binds symbols to
numbers, `graph_names` has what the user calls things, `step_outputs` tells gradients and saved
tensors. `scratch_probe` and `trials` run operators aside to learn what they allocate and write
(`isolation`, `op_calls`). `op_costs` tells how long ops take: measured (`cost_table` keeps that on
disk) or estimated (`roofline`, by the `rates` of the machine). `fake_copies` makes models without
data for offline plans. `whole_program` and `captured_step` read programs that call `backward()`
themselves.
"""
