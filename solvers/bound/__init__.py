"""Lower bounds on the peak of every order. `min_cut` finds the cheapest moment to run each op.

The bound that needs no search, of bytes that must be alive, is in `roam.core.bounds`.
"""
