"""Solvers of order, bound and layout, baselines included. Imported as `roam.solvers`.

Every search returns an `Answer` (`answer.py`) and is limited by counted `Work` (`work.py`).
"""

if __name__ != "roam.solvers":
    raise ImportError(f"this package is roam.solvers, not {__name__}")
