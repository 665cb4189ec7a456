"""Rewrites: passes that change the ops of a graph and keep its results. One a file.

`table` says which of them keep every bit, and which add up in another order.
"""
