"""The `aten` lowering: runs a graph's own operators in a planned order, in planned memory.

Read `kernels` first: it draws the path of a captured graph. The graph is rewritten (`rewriting`),
partitioned into forward and backward (`partitioned_graph`), planned, and run. `emit` turns a plan
into a graph of operators for each phase (forward, backward), and these graphs into Python code by
means of `boxed_code`. `lowered` holds the resulting callables. `plain` runs a graph without a plan.
`whole_step` handles a step that was captured as one graph with its backward. `entry` defines the
object that stands for this lowering in `roam.lowering.table`.

Before the joint graph (forward and backward in one) is partitioned, copies of ops and transfers to
a folder may be added to it, so that the step takes less memory (read `edited_graph`):

    free_recompute, free_search  choose ops to recompute if the user gave no budget
    aot_eager                    finds the bytes that PyTorch's aot_eager would take for the graph
    kept_budget, budget          keep the user's budget when the graph is compiled
    budget_search, budget_graph  search for copies of ops, and add them to the graph
    mix                          mixes copies with transfers for the least time
    kept_offload, offload,       choose transfers to a folder, and find their places in the graph
    transfer_places, tier_link
    footprint, shared_budget     keep the budget at run time, beside other graphs
    step_watch                   compares the times of steps with the plan of their transfers
    decompositions               replace an operator by simpler ones, for the rewrite that splits
                                 ops into blocks of rows
"""
