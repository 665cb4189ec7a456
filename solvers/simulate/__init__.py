"""Simulators of memory allocators: how many bytes a plan would make them reserve."""
