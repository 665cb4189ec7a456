"""Capture: turns FX graphs into a Problem, with sizes, scratch space and names.

Read `fx_problem` first, then `fx_reader`, which draws what becomes of each node.

    node_facts, origins          facts about a node: whether it is an op, its module, its lines
    symbolic_sizes               turns symbolic sizes into numbers
    graph_names, user_code       the user's names of graphs and inputs, and lines for errors
    step_outputs                 finds gradients and saved tensors among the results of a graph
    scratch_probe, trials,       run operators on zeros or random tensors, aside from the user's
    op_calls                     program, to learn what they allocate and write
    op_costs, cost_table         seconds of ops on this machine: measured, and kept on disk,
    roofline, rates, usual_costs or estimated
    tier_rates, free_memory      rates of a disk; bytes that a device has free
    traced_values                frees what dynamo's fake values keep alive
    fake_copies                  copies models without their data, for offline plans
    whole_program, captured_step read programs that call `backward()` themselves
"""
