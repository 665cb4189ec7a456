"""Run time: the memory that planned graphs run in.

Read `blocks` first: it allocates blocks, makes tensors in them, and keeps blocks between steps.
`saved_stack` places the tensors that Inductor's forward saves, `reused_inputs` tells whether a
backward may overwrite its inputs, `huge_pages` asks the kernel for large pages.
"""
