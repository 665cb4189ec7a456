"""Chooses which saved tensors are kept smaller, and by which rewrite.

    saved tensors ── exact recompute ──┬── kept: x          is there a method for x, and for every
                                       └── free: y, of x    tensor that is made of it? do they gain?

A tensor that the backward makes again for next to nothing is not kept smaller: that gains nothing.
If the tensor that it is made of is replaced, it needs a method of its own. If that tensor is
restored, it is made of what is restored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from roam.core.machine import Bytes
from roam.core.shrunk import Shrunk
from roam.passes.geometry import value
from roam.passes.rewrites.saved.exact import Chain
from roam.passes.rewrites.saved.noise import Noise
from roam.passes.rewrites.saved.rewrite import (
    Method,
    Replaced,
    Restored,
    SavedRewrite,
    Whole,
    is_of,
)
from roam.passes.rewrites.saved.tensors import SavedTensor, size_of
from roam.passes.traced import results


class Choice:
    """Which tensors are kept smaller, and how.

    Attributes:
        tensors: the saved tensors, by the nodes that make them.
        chains: by tensor, how it is made again.
        chosen: by tensor, its method.
    """

    def __init__(
        self,
        rewrites: Sequence[SavedRewrite],
        saved: Sequence[SavedTensor],
        chains: Mapping[fx.Node, Chain],
    ) -> None:
        self.chains = chains
        self.chosen: dict[fx.Node, Replaced | Restored] = {}
        self._rewrites, self.tensors = rewrites, {t.node: t for t in saved}
        self._told: list[Shrunk] = []
        made_of: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node, chain in chains.items():
            for source in chain.sources:
                made_of[source].append(node)
        for tensor in saved:
            if tensor.node not in chains:
                self._choose(tensor, made_of[tensor.node])

    def told(self) -> tuple[Shrunk, ...]:
        """Returns what becomes of the tensors that a rewrite looked for."""
        for node in self.chains:
            tensor = self.tensors[node]
            rewrite, method = self._method(tensor)
            if node not in self.chosen and isinstance(method, Replaced):
                self._tell(rewrite, tensor, tensor.bytes, "is recomputed exactly, for less")
        return tuple(self._told)

    def _choose(self, tensor: SavedTensor, dependents: Sequence[fx.Node]) -> None:
        """Chooses a method for a tensor that is kept, and for what is made of it, if that gains."""
        rewrite, method = self._method(tensor)
        if method is None:
            return
        if isinstance(method, Whole):
            self._tell(rewrite, tensor, tensor.bytes, method.reason)
            return
        group = {tensor.node: (rewrite, method)}
        if isinstance(method, Replaced):
            for node in dependents:
                other, how = self._method(self.tensors[node])
                if not isinstance(how, Replaced):
                    reason = f"{node.name} is recomputed of it"
                    self._tell(rewrite, tensor, tensor.bytes, reason)
                    return
                group[node] = other, how
        after = {n: _bytes_of(how, n) for n, (_, how) in group.items()}
        if sum(after.values()) >= tensor.bytes:
            self._tell(rewrite, tensor, tensor.bytes, "what is saved instead is as large")
            return
        for node, (which, how) in group.items():
            self.chosen[node] = how
            before = tensor.bytes if node is tensor.node else 0
            self._tell(which, self.tensors[node], before, after=after[node])

    def _method(self, tensor: SavedTensor) -> tuple[SavedRewrite, Method]:
        """Returns the first rewrite that applies to a tensor, else the first that looks for it."""
        found: tuple[SavedRewrite, Method] = self._rewrites[0], None
        for rewrite in self._rewrites:
            if not is_of(tensor, rewrite.modules):
                continue
            method = rewrite.method(tensor)
            if isinstance(method, (Replaced, Restored)):
                if tensor.returned:
                    return rewrite, Whole("the forward returns it")
                if tensor.is_checkpointed:
                    return rewrite, Whole("checkpoint() runs it again, exactly")
                return rewrite, method
            if method is not None and found[1] is None:
                found = rewrite, method
        return found

    def _tell(
        self,
        rewrite: SavedRewrite,
        tensor: SavedTensor,
        before: Bytes,
        reason: str = "",
        after: Bytes | None = None,
    ) -> None:
        module = ", ".join(m for m in tensor.modules if m)
        kept = before if after is None else after
        self._told.append(Shrunk(rewrite.name, module, before, kept, reason))


def _bytes_of(method: Replaced | Restored, node: fx.Node) -> Bytes:
    """Returns the bytes that a method saves in place of a tensor."""
    like = value(node)

    def keep(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seed = torch.empty(1, dtype=torch.int64, device=like.device)
        return method.keep(x, Noise(seed, 0))

    return sum(map(size_of, results(keep, node)))
