"""Simulators: what an allocator would reserve for a plan, and when the ops of a step would run.

caching_allocator   bytes that PyTorch's caching allocator would reserve
step                when ops and transfers begin and end, the stalls, the bytes alive
link_queues         transfers on a link, one queue a direction
"""
