"""Exact packing: offsets for rectangles of memory, the lowest arena and the proof."""
