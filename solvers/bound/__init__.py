"""Proves lower bounds on the peak of every order of a Problem by minimum cuts (`min_cut`).

`roam.core.bounds` has the bound that needs no search: the bytes that must be alive in any order.
"""
