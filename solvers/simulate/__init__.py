"""Simulators of memory allocators: they tell how many bytes an allocator reserves for a plan."""
