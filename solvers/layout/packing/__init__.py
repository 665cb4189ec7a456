"""Exact packing: finds offsets for rectangles of memory, the lowest arena, and its proof.

Read `pack` first: it draws the order of the methods. `lines` and `sweep` are heuristics beside the
greedy fits, with `pq_tree` under `sweep`. `search` is branch and bound: `skyline` is its state,
`branching` its choices. `instance` reads and checks, `generate` makes random instances, `baselines`
has the packers of compilers.
"""
