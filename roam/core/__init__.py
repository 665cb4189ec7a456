"""Defines problems, edits and plans, and checks plans. Imports neither torch nor a solver.

Read `problem` first (its `parts` are buffers and ops), then `lifetime` and `plan`, then `check`.

    build, folds, origins        make a Problem op by op; facts about folds; names for people
    lifetime, buffer_table       when buffers are alive, and the live curve of an order
    plan, proof, bounds          a Plan, what proves its lower bound, the bound without a search
    check, rectangles            accept or refuse a plan, apart from all that makes plans
    edits, draft, split,         decisions that change a Problem, and the draft of a Problem that is
    offload, offload_to, shrunk  being changed
    sharded, replay, node_link   one rank's Problem, published graphs and schedules
    machine, described_machines  facts about hardware
    budget, sizes                byte budgets and sizes as people write them
    files, strict_json,          files, as JSON and as text
    text, text_records,
    text_edits, atomic_write
    errors                       every error that roam raises
"""
