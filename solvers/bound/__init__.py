"""Lower bounds on the peak of every order. `min_cut` finds the cheapest moment to run an op.

`roam.core.bounds` has the bound that needs no search: the bytes that must be alive in any order.
"""
