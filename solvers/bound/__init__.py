"""Proves lower bounds by minimum cuts: on peaks, and on the time that recomputation adds.

    min_cut         on the peak of every order of a Problem, without copies
    time_bound      on the extra time within a byte budget, and on the peak of every schedule, with
                    any copies. Asks `priced_cut` about one op after another
    priced_cut      proves these bounds at one op, on the network that `priced_network` builds

`roam.core.bounds` has the bound on the peak that needs no search: the bytes that must be alive in
any order.
"""
