"""Keeps steps within a byte budget: chooses the ops to recompute, and proves lower bounds.

For a training step, in which copies of the forward's ops run in the backward:

    copies         defines a choice of copies, and the Problem of the step with these copies
    segments       cuts the backward into segments, in which copies stand near their readers
    hull           chooses copies by minimum cuts
    copy_reach     finds the copies that the CP-SAT program may choose
    retention      the CP-SAT program: the buffers kept from segment to segment, and the copies
    choose         chooses copies by cuts, then by the program if the cuts find none good enough
    lowest_peak    chooses the copies that lower the peak most and take at most a given time
    pareto         finds several trade-offs between memory and time
    proof          proves lower bounds on the added time and on the bytes

For graphs in which each op makes one result and changes no buffer. The ops may run in any order,
and each any number of times:

    sequence_search       searches for the cheapest schedule within a budget
    sequence_annealing    local search over sequences of runs, used by `sequence_search`
    run_sequences         measures and changes sequences of runs
"""
