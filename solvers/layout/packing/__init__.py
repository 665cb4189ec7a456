"""Exact packing: finds offsets for buffers such that the arena is as low as possible, with a proof.

A buffer is a rectangle: its sides are its lifetime and its size. Read `pack` first: it draws the
order of the methods. `lines` and `sweep` are heuristics beside the greedy fits; `sweep` is built on
`pq_tree`. `search` is branch and bound: `skyline` is its state, `branching` its choices. `instance`
reads and checks instances, `generate` makes random ones, `baselines` has the packers of compilers.
"""
