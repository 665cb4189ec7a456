"""Bounds: what no order can go below. `min_cut` finds the cheapest moment to run each op."""
