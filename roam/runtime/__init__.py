"""Provides the memory that planned graphs run in, and moves tensors to files and back.

Read `blocks` first: it allocates blocks, makes tensors in them, and keeps blocks between steps.
`saved_stack` places the tensors that Inductor's forward saves, `reused_inputs` tells whether a
backward may overwrite its inputs, `huge_pages` asks the kernel for large pages. `held_memory`
tracks what graphs with a budget hold. `allocations` counts the bytes that a call allocates,
`isolation` runs operators aside from the user's program. `one_pass` makes kernels of formulas of
elements, for optimizers.

Tensors that leave memory and come back:

    transfer_ops    the ops in graphs: start a write, wait for it, start a read, wait for it
    file_tier       a tier in a folder of the user's: regions, writes, reads
    stored_tensor   a tensor that stays there between its uses;  stored_ops are the ops in graphs
    tickets         tensors by which ops know things that are no tensors
    transfers       a tensor's bytes on their way, chunk by chunk, on a thread of each direction
    regions         the address space of the file
    tier_file       the file: direct transfers, growth;  tier_folder makes it
    tier_settings   how bytes move, and how many have;  tier_speed measures a disk
    io_thread, pace, fingerprint    a thread for input and output, a limit on its rate, and
                    checks that bytes come back as they were sent
"""
