"""Defines rewrites: passes that change the ops of a graph and keep its results. One a file.

`table` lists those that always run: which keep every bit, and which add up in another order. To add
one, write a file and a row of the table.

`saved/` defines rewrites that keep saved tensors smaller, which users name (`by_name`): wta_crs,
velora, rad, quantized, approx_bp, relu_bits. `sampling`, `codes`, `pointwise`, `linear_operands`
and `linear_readers` help them. `split/` runs groups of ops in blocks of rows.
"""
