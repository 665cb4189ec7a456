"""Passes over FX graphs, one a file. Imported as `roam.passes`.

Read `pipeline` first: it says what a pass is. `rewrites/` changes what a graph runs, `annotations/`
notes facts about nodes in `node.meta`, `gradient_release` ends gradients in folds. `geometry`
answers questions about the memory of fake tensors, for passes and for capture.
"""

if __name__ != "roam.passes":
    raise ImportError(f"this package is roam.passes, not {__name__}")
