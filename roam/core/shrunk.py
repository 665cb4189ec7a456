"""What rewrites keep of saved tensors in place of the tensors, and which tensors stay whole."""

from __future__ import annotations

from dataclasses import dataclass

from roam.core.machine import Bytes


@dataclass(frozen=True)
class Shrunk:
    """A tensor that the user asked to keep smaller.

    Attributes:
        rewrite: the name of the rewrite.
        module: the path of the module that reads the tensor in the backward.
        before: bytes of the tensor; 0 if they would not have been saved, since the backward makes
            it again for next to nothing of another tensor that is kept smaller.
        after: bytes that are saved instead; `before` if it stays whole.
        reason: why it stays whole; empty if it does not.
    """

    rewrite: str
    module: str
    before: Bytes
    after: Bytes
    reason: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A rewrite that changed nothing in a graph.

    Attributes:
        rewrite: its name.
        reason: what was in the way.
    """

    rewrite: str
    reason: str
