"""Finds the order in which the ops of a phase run.

Read `best_order` first: it asks `greedy` for first orders, `bisection` for a better order and a
proven bound, and `local_search` if the peak is still above the bound.

    bisection       asks `valleys` about one limit in bytes after another: does any order fit?
    valleys         the exact search for an order within a limit. `segment_search` finds the way
                    from one valley to the next. `progress` holds the state of the search
    local_search    many runs of `annealing`, on the arrays of `tables`
    adjacent_calls  moves ops that can share a call next to each other

A *valley* is a set of ops after which no more bytes are alive than after any set on the way to it.
The sets between two valleys are a *hill* (`valleys` draws both).
"""
