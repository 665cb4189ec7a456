"""Annotations: passes that note facts about nodes for capture and lowering. One a file.

`real_layouts` corrects strides, `out_variants` finds the `out=` form of each op, `inplace` the
inputs that a result may overwrite, `scratch` the bytes that an op allocates while it runs, `offers`
the options that would keep a result smaller.
"""
