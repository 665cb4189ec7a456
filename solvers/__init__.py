"""Algorithms that find orders, lower bounds and layouts, and the baselines to compare them with.

The package is imported as `roam.solvers`. A search returns an `Answer` (`answer.py`), and counted
`Work` limits how long it may go on (`work.py`).
"""

if __name__ != "roam.solvers":
    raise ImportError(f"this package is roam.solvers, not {__name__}")
