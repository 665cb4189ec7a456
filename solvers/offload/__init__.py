"""Chooses what leaves the device between forward and backward, and when, for one order of ops.

movable     the buffers that may leave, and when at the earliest and latest
timeline    one link to the tier and back: when each transfer begins and ends
choose      the transfers that lower the peak and stall no op
bound       what no transfers without a stall can go below
"""
