"""The `aten` lowering: runs a graph's own operators in a planned order, in planned memory.

Read `kernels` first: it draws the path of a graph, which it rewrites (`rewriting`), partitions
(`partitioned_graph`), plans and runs. `emit` turns a plan into a graph of operators for each phase
(forward, backward), and these graphs into Python code by means of `boxed_code`. `lowered` holds the
resulting callables. `plain` runs a graph without a plan. `whole_step` handles a step that was
captured as one graph with its backward. `entry` defines the object that stands for this lowering in
`roam.lowering.table`.

Before the joint graph (forward and backward in one) is partitioned, copies of ops and transfers to
a folder may be added to it, so that it takes less memory (read `edited_graph`):

    free_recompute, aot_eager    recompute without a budget; what PyTorch's aot_eager would take
    kept_budget, budget          keep the user's budget when the graph is compiled
    budget_search, budget_graph  search for copies of ops, and add them to the graph
    mix                          mixes copies with transfers for the least time
    kept_offload, offload,       choose transfers to a folder, and find their places in the graph
    transfer_places, tier_link
    footprint, shared_budget     keep the budget at run time, beside other graphs
    step_watch                   compares the times of steps with the plan of their transfers
    decompositions               parts of composite operators, for the rewrite that splits ops into
                                 blocks of rows
"""
