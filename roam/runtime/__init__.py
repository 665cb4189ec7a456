"""Run time: the memory that planned graphs run in.

`blocks` allocates, carves and keeps blocks, `saved_stack` places what Inductor's forward saves,
`held_tensors` tells whether a tensor may be written over, `huge_pages` asks for large pages.
"""
