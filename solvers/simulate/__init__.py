"""Simulates what an allocator would reserve for a plan, and when the ops of a step would run.

caching_allocator   the bytes that PyTorch's caching allocator would reserve
step                when ops and transfers begin and end, how long ops stall, the bytes alive
link_queues         transfers on a link to a tier, with one queue for each direction
"""
