"""Runs the forward and the backward of a captured graph, and decides which gradients are folded.

Read `driver` first. Each forward that runs leaves a ticket, a record of the gradients that its
backward may fold (`foldable_gradients`, `graph_optimizers`, `parameter_hooks`, `pending_forwards`).
The backward inspects the autograd engine's graph to find out whether it may fold them
(`running_backward`). `compiled_graph` is what the user's program calls; it compiles the graph anew
if the plan turns out wrong. `rank_agreement` compares what several ranks compile. `offline` drives
a step that is planned and does not run. `reports` records plans, logs and warns, `loss_check`
refuses losses that eager refuses. The backend, `roam.plan` and `compile_step` use the driver.
"""
