"""Order and layout solvers, baselines included. Imported as `roam.solvers`."""

if __name__ != "roam.solvers":
    raise ImportError(f"this package is roam.solvers, not {__name__}")
