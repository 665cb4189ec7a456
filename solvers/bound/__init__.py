"""Lower bounds on the peak of every order. `min_cut` finds the fewest bytes alive when an op runs.

`roam.core.bounds` has the bound that needs no search: the bytes that must be alive in any order.
"""
