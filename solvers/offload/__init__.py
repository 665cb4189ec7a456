"""When tensors go to a tier and come back, for one order of ops.

What leaves the device between forward and backward:

movable     the buffers that may leave, and when at the earliest and latest
timeline    one link to the tier and back: when each transfer begins and ends
contenders  rules that choose what moves, from the literature
swaps       a search for a better choice
choose      the transfers that lower the peak and stall no op
moved       the step with its transfers as ops
bound       what no transfers without a stall can go below

What stays in a tier between steps, as optimizers' states do:

loads       one op each loads, changes and stores it; the problem without these transfers
prefetch    loads start early enough, where memory allows
"""
