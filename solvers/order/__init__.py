"""Finds the order in which the ops of a phase run.

Read `best_order` first: it asks `greedy` for first orders and `bisection` for a better order and a
proven bound of the whole phase. If the peak is still above the bound, `leaf_search` cuts the phase
into leaves, and asks for the order and the bound of each.

    greedy          list schedules by simple rules, and `lazy_schedule`, which keeps within a limit.
                    `phase_memory` counts the bytes that an op makes and frees
    bisection       asks `valleys` about one limit in bytes after another: does any order fit?
    valleys         the exact search for an order within a limit. `segment_search` finds the way
                    from one valley to the next. `progress` holds the state of the search
    leaf_search     settles the leaf with the highest peak first, equal leaves once. `key_points`
                    proves where a phase may be cut; `leaf` makes a Problem of what is between
    widening        asks `beam_search`, a compiled search of sets of ops, with wider and wider beams
    windows         asks `beam_search` about the surroundings of the worst moments of an order
    local_search    many runs of `annealing`, on the arrays of `tables`, and of `windows`
    leaf_cpsat      asks CP-SAT whether a small leaf has an order within a limit
    tree            the segments of an order as a tree: what `roam show --tree` prints
    adjacent_calls  moves ops that can share a call next to each other

A *valley* is a set of ops after which no more bytes are alive than after any set on the way to it.
The sets between two valleys are a *hill* (`valleys` draws both). A *key point* is a moment with few
live bytes, and a *segment* the ops between two of them; a *leaf* is a segment without others in it.
"""
