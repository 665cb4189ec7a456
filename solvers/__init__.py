"""Searches for orders, lower bounds, layouts, copies and transfers, and baselines to compare with.

    order/      the order of ops with the lowest peak
    bound/      lower bounds on the peak, and on the time of recomputation, by minimum cuts
    layout/     the addresses of buffers
    budget/     which ops to recompute within a byte budget (`form.py` describes a copy)
    offload/    which buffers to move to a tier, and when
    simulate/   an allocator, and the times of a step with transfers
    baselines/  the orders of other planners

The package is imported as `roam.solvers`; an import under another name raises ImportError. Most
searches for orders, packings and bounds return an `Answer` (`answer.py`). `Work` limits how long
searches go on, by counted units of work and a deadline (`work.py`).
"""

if __name__ != "roam.solvers":
    raise ImportError(f"this package is roam.solvers, not {__name__}")
