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

from torch import fx

from roam.core.machine import Bytes
from roam.core.shrunk import Shrunk
from roam.passes.rewrites.saved.exact import Chain
from roam.passes.rewrites.saved.rewrite import SavedRewrite, Whole, is_of
from roam.passes.rewrites.saved.tensors import SavedTensor
from roam.passes.rewrites.saved.trial import Smaller, tried


class Choice:
    """Which tensors are kept smaller, and how.

    Attributes:
        tensors: the saved tensors, by the nodes that make them.
        chains: by tensor, how it is made again.
        chosen: by tensor, how it is kept smaller.
        useful: the rewrites that found a tensor of their kind.

    Raises:
        RewriteError: a rewrite raises, or makes something unlike what it replaces.
    """

    def __init__(
        self,
        rewrites: Sequence[SavedRewrite],
        saved: Sequence[SavedTensor],
        chains: Mapping[fx.Node, Chain],
    ) -> None:
        self.chains = chains
        self.chosen: dict[fx.Node, Smaller] = {}
        self.useful: list[SavedRewrite] = []
        self._rewrites, self.tensors = rewrites, {t.node: t for t in saved}
        self._told: list[Shrunk] = []
        self._known: dict[fx.Node, list[Smaller | tuple[SavedRewrite, Whole]]] = {}
        made_of: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node, chain in chains.items():
            for source in chain.sources:
                made_of[source].append(node)
        for tensor in saved:
            if tensor.node not in chains:
                self._choose(tensor, made_of[tensor.node])
        for node in chains:
            self._tell_of_recomputed(node)

    @property
    def told(self) -> tuple[Shrunk, ...]:
        """What becomes of the tensors that a rewrite looked for."""
        return tuple(self._told)

    def _choose(self, tensor: SavedTensor, dependents: Sequence[fx.Node]) -> None:
        """Chooses the first method that gains for a tensor that is kept, and what is made of it."""
        reasons: list[tuple[SavedRewrite, str]] = []
        for found in self._methods(tensor.node):
            if isinstance(found, tuple):
                reasons.append((found[0], found[1].reason))
                continue
            group = {tensor.node: found}
            wanting = None
            for node in () if found.method.remakes else dependents:
                own = self._own(node)
                if own is None:
                    wanting = node
                elif node not in self.chosen:
                    group[node] = own
            if wanting is not None:
                reasons.append((found.rewrite, f"{wanting.name} is recomputed of it"))
            elif sum(s.bytes for s in group.values()) >= tensor.bytes:
                reasons.append((found.rewrite, "what is saved instead is as large"))
            else:
                for node, one in group.items():
                    self.chosen[node] = one
                    before = tensor.bytes if node is tensor.node else 0
                    self._tell(one.rewrite, self.tensors[node], before, one.bytes)
                return
        if reasons:
            rewrite, reason = reasons[0]
            self._tell(rewrite, tensor, tensor.bytes, tensor.bytes, reason)

    def _own(self, node: fx.Node) -> Smaller | None:
        """Returns a method for a tensor that is not recomputed any more; None if there is none."""
        return next((m for m in self._methods(node) if isinstance(m, Smaller)), None)

    def _tell_of_recomputed(self, node: fx.Node) -> None:
        """Tells of a tensor that is recomputed, though a rewrite would keep something of it."""
        own, tensor = self._own(node), self.tensors[node]
        if own is not None and not own.method.remakes and node not in self.chosen:
            reason = "is recomputed exactly, for less"
            self._tell(own.rewrite, tensor, tensor.bytes, tensor.bytes, reason)

    def _methods(self, node: fx.Node) -> list[Smaller | tuple[SavedRewrite, Whole]]:
        """Returns what the rewrites that look for a tensor do with it, in their order."""
        if node not in self._known:
            tensor = self.tensors[node]
            self._known[node] = found = []
            for rewrite in self._rewrites:
                if not is_of(tensor, rewrite.modules):
                    continue
                how = tried(rewrite, tensor)
                if how is not None:
                    self.useful.append(rewrite)
                    whole = _whole(tensor) if isinstance(how, Smaller) else how
                    found.append(how if whole is None else (rewrite, whole))
        return self._known[node]

    def _tell(
        self,
        rewrite: SavedRewrite,
        tensor: SavedTensor,
        before: Bytes,
        after: Bytes,
        reason: str = "",
    ) -> None:
        module = ", ".join(m for m in tensor.modules if m)
        self._told.append(Shrunk(rewrite.name, module, before, after, reason))


def _whole(tensor: SavedTensor) -> Whole | None:
    """Returns why a tensor stays whole, whatever a rewrite would do; None if it need not."""
    if tensor.returned:
        return Whole("the forward returns it")
    if tensor.is_checkpointed:
        return Whole("checkpoint() runs it again, exactly")
    return None
