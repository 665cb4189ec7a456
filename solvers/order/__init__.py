"""Orders: in which order the ops of a phase run.

Read `best_order` first: it asks `greedy` for first orders, `bisection` for a better one with a
proof, and `local_search` if the proof leaves a gap.

    bisection       one limit after another, asked of `valleys`: does an order keep within it?
    valleys         the exact search; `segment_search` crosses the hill between two valleys,
                    `progress` is the state that it steps through
    local_search    many runs of `annealing`, on the arrays of `tables`
    adjacent_calls  puts ops side by side that share a call
"""
