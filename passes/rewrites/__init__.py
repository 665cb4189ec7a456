"""Rewrites: passes that change what a graph computes with, and never its results. One a file."""
