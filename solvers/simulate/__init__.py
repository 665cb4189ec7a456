"""Simulators: what an allocator would do with a plan."""
