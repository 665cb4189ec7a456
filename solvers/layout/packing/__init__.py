"""Packs buffers: searches for the lowest arena that holds them, and for a proof that none is lower.

A buffer is a rectangle: its sides are its lifetime and its size. Read `pack` first: it draws in
which order it tries the methods. `lines` and `sweep` are heuristics beside the greedy fits
(`greedy_fits`); `sweep` is built on `pq_tree`. `search` is branch and bound: `skyline` is the state
of the search, `branching` lists its choices, and `restarts` begins it again and again. `ejection`
is a local search, for parts that are too large for a proof; `placed` keeps its rectangles sorted.
`instance` reads and checks instances, `generate` makes random instances, and `baselines` has the
packing algorithms of compilers.
"""
