"""Meets a byte budget: chooses which ops run again, at the least cost, and proves how little.

Of a training step (a Problem):

    copies      what a choice of copies is, and the Problem that it makes of a step
    segments    cuts the backward into segments, in which copies stand near their readers
    retention   the CP-SAT program: what is kept from segment to segment, and what runs again
    choose      asks the program again and again until the live curve keeps within the budget

Of any graph, whose ops may run in any order and as often as one likes:

    sequence_search       starts, stairs of limits, and what is left out again at the end
    sequence_annealing    local search over sequences of runs
"""
