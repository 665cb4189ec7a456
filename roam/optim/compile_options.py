"""Makes dynamo keep other options than those that the user passed to `torch.compile`.

    torch.compile ── wrapper of backend and options ──┬── dynamo's list of backends
                                                      └── caches of compiled functions

The list and the caches keep the wrapper alive until dynamo is reset. An optimizer in the wrapper's
options would outlive its deletion by the user, with its parameters and moments, and go on folding
gradients. The options are changed when the wrapper is made, not when the backend is called: dynamo
calls the backend only to compile a graph, which may never happen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

log = logging.getLogger("roam")


def keep_options_as(changed: Callable[[Any], Any]) -> None:
    """Makes every later `torch.compile` keep `changed(options)` instead of the user's options.

    Calls with the backend "inductor" are not affected: their options cannot name an optimizer. If
    this version of torch has no `_TorchCompileWrapper`, the class that keeps the options of all
    other backends, logs a warning and changes nothing.
    """
    wrapper: Any = getattr(torch, "_TorchCompileWrapper", None)
    if wrapper is None:
        log.warning("torch %s keeps optimizers that are named in options", torch.__version__)
        return
    init = wrapper.__init__

    @wraps(init)
    def init_and_change(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if "options" in self.kwargs:
            self.kwargs["options"] = changed(self.kwargs["options"])

    wrapper.__init__ = init_and_change
