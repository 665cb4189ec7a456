"""What dynamo keeps of `torch.compile(..., options=...)`: a handle in place of an optimizer.

`torch.compile` puts the options into a wrapper around the backend's name. The wrapper stays in
dynamo's list of backends, and in the cache of every function compiled with it, until dynamo is
reset. An optimizer in there would outlive its deletion, with its parameters and its moments, and
go on folding. The backend itself is only called to compile a graph, which may be never, so the
exchange is made where the wrapper is.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch

from roam.optim.folding import FoldingOptimizer
from roam.optim.handle import without_ownership


def hold_optimizers_weakly() -> None:
    """Has every later `torch.compile` keep a handle of a folding optimizer in its options.

    The user's own dict of options stays as it is.
    """
    wrapper: Any = torch._TorchCompileWrapper
    init = wrapper.__init__

    @wraps(init)
    def keep_handle(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        options = self.kwargs.get("options")
        if isinstance(options, dict) and isinstance(options.get("optimizer"), FoldingOptimizer):
            self.kwargs["options"] = without_ownership(options)

    wrapper.__init__ = keep_handle
