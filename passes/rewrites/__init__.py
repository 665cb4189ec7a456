"""Rewrites: passes that change the ops of a graph and never its results. One a file."""
