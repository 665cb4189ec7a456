"""A Plan becomes a callable, one lowering a file."""
