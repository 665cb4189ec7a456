"""Finds the order in which the ops of a phase run.

Read `best_order` first. It asks `greedy` for first orders of each phase, then `bisection` for a
better order and a proven lower bound on the peak of every order. If the peak of a phase is still
above the bound, `leaf_search` cuts the phase into leaves, and improves the leaves with the highest
peaks.

    greedy          makes first orders by simple rules, one of which is in `lazy_schedule`.
                    `ranked_schedule` runs the ready op with the lowest rank again and again,
                    `phase_memory` counts the bytes that an op makes and frees
    bisection       asks `valleys` again and again whether an order keeps within a number of bytes
    valleys         answers that question by an exact search. `segment_search` finds the ops that
                    lead from one valley to the next; `progress` holds the state of the search
    bracket         keeps the best order, its peak and the bound, for `bisection` and `widening`
    leaf_search     improves the leaf with the highest peak first, and copies its order to equal
                    leaves; `leaf_stages` has the searches that it tries on a leaf. `key_points`
                    proves where a phase may be cut; `leaf` makes a leaf a Problem of its own;
                    `segment` holds an ordered leaf in the result
    widening        asks `beam_search`, a compiled search of sets of ops, with wider and wider
                    beams: of the sets with equally many ops, the search extends only so many as
                    the beam is wide. `levels` extends the sets by one op, `op_sets` keeps them as
                    bits
    local_search    improves an order by many runs of `annealing`, on the arrays of `tables`.
                    `present_order` holds the order, `moves` computes what one move would change,
                    and `handing_over` which op is then the last to use a buffer
    leaf_cpsat      asks CP-SAT whether a small leaf has an order within a number of bytes
    tree            the segments of an order as a tree: what `roam show --tree` prints
    adjacent_calls  moves ops next to each other that can run in one call, such as small folds (ops
                    that absorb a gradient into the optimizer's state)

A *valley* after a set S of ops is a set that contains S, and after which no more bytes are alive
than after S and after every set between the two. The sets between two valleys are a *hill*
(`valleys` draws both). A *key point* is a moment with few live bytes, and a *segment* is the ops
between two key points. A *leaf* is a segment that is ordered by itself, as a Problem of its own:
both its key points are *safe*, so that the cuts there do not lose the best order.
"""
