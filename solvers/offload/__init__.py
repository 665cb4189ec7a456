"""When tensors go to a tier and come back, for one order of ops.

What leaves the device between forward and backward:

movable     the buffers that may leave, and when at the earliest and latest
timeline    one link to the tier and back: when each transfer begins and ends
choose      the transfers that lower the peak and stall no op
bound       what no transfers without a stall can go below

What stays in a tier between steps, as optimizers' states do:

loads       one op each loads, changes and stores it; the problem without these transfers
prefetch    loads start early enough, where memory allows
stalls      what an order takes with its transfers, and what waits
"""
