"""The step: forward and backward of one captured graph, when they run, and what is folded.

Read `driver` first. A forward that runs is remembered (`pending_forwards`) and says which gradients
its backward may fold (`foldable_gradients`, `graph_optimizers`, `parameter_hooks`); the backward
asks the autograd engine what it is about to do (`running_backward`). `offline` drives a step that
is planned and does not run; `reports` notes what becomes of graphs.
"""
