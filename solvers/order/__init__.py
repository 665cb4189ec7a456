"""Orders: in which order the ops of a phase run.

`greedy` gives first orders, `valleys` the best one with a proof (`bisection` asks it for one limit
after another, `segment_search` crosses the hill between two valleys, `progress` is the state of
that search), `local_search` goes on where the proof gives up (`annealing`, on the
arrays of `tables`).
`adjacent_calls` puts ops side by side that share a call.
"""
