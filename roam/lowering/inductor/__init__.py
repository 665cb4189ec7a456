"""Compiles graphs with Inductor, whose kernels then run in a planned order.

    dynamo's graph ── compile_fx ──┬── forward ─────────── scheduler ── order ── code
    (entry)                        └── backward ── folds ── scheduler ── order ── code

Read `entry` first, then `kernels`, which compiles one captured graph, then `order`. Inductor's
scheduler calls `order.PlannedOrder` with the fused nodes of a graph, and gets them back in the
planned order.

    problem                                 turns the fused nodes into a Problem for the planner
    scheduler_buffers, in_place,            find facts about memory that the Problem needs
    inner_buffers, scratch
    rewriting                               runs rewrites on the joint graph
    add_mm                                  lowers an op that adds a matrix product to a buffer, in
                                            place if possible
    block_order, readers_first              order ops that a rewrite split into blocks of rows
    origins                                 finds the FX nodes that a scheduler node is made from
    costs                                   finds the seconds of kernels, measured or estimated
    partition                               changes what the forward saves for the backward
    user_passes                             keeps the user's own Inductor passes working
    folding_graph                           compiles a backward for each set of folds
    folds                                   adds ops to a backward that call optimizers, which
                                            absorb gradients into their state
    graph_folds                             makes folds kernels of the backward, for CUDA graphs
    whole_step                              compiles a step that was captured as one graph
    saved_code                              changes the generated code that allocates and frees
                                            saved tensors
    shared_functions                        decides which nodes share a C++ function
    notes                                   writes plans into code, for Inductor's caches
    offline                                 plans without generating code
    budget_kernels, budget                  keep a graph within a byte budget
    saved_choice, trial                     choose what the forward saves within the budget, and
                                            plan the kernels of a choice to learn its peak
    needs                                   finds what Inductor lacks to work on a device
"""
