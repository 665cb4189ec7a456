"""Bounds: what no order can go below. `min_cut` finds the cheapest moment at which an op can run."""
