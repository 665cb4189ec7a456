"""Chooses which buffers move to a tier, and when they go and come back, for one order of ops.

Buffers that leave the device between the forward and the backward:

movable     finds the buffers that may leave, and the ops between which each may be away
timeline    computes when each transfer begins and ends on a link to the tier and back
contenders  rules from the literature that choose buffers
swaps       a search for a better choice of buffers
choose      chooses the transfers that lower the peak and stall no op
moved       adds transfers to a step as ops, and simulates how long ops wait for them
bound       lower bounds on the peak, and on the time of any mix of transfers and copies of ops

Buffers that stay in a tier between steps, such as optimizers' states:

loads       finds these buffers, each loaded for one op, and leaves their transfers out of the
            problem for other searches
prefetch    starts each load early enough, if memory allows
"""
