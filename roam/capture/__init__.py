"""Capture: FX graphs become a Problem, with sizes, scratch space and names.

Read `fx_problem` first: it draws what becomes of each node. `symbolic_sizes` binds symbols to
numbers, `scratch_probe` and `trials` run operators aside to learn what they allocate and write
(`isolation`, `op_calls`), `fake_copies` makes models without data for offline plans.
"""
