"""ATen's kernels: a plan becomes two graphs of operators in an arena, and those become Python.

Read `emit` first. `plain` runs a graph without a plan.
"""
